//! The end of an exchange: whatever happens to a request, exactly one [`RequestRecord`] counts it,
//! logs it and gives its connection back.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, Version};

use super::custom_log_fields::CustomLogFields;
use super::grpc;
use super::head::Head;
use super::request_body::UploadProgress;
use super::request_deadline::RequestDeadline;
use super::request_observer::RequestObserver;
use super::server::downstream::Downstream;
use crate::catalog::error_pages::replace_content;
use crate::catalog::policies::{Policies, ResponseEdits};
use crate::log::access::AccessRecord;
use crate::metrics::ServiceMetrics;
use crate::metrics::outcomes::Outcomes;
use crate::proxy::auth::Granted;
use crate::proxy::error::ProxyError;
use crate::proxy::error_page_files::{ErrorPage, ErrorPageFiles};
use crate::proxy::pool::StreamGuard;
use crate::proxy::worker::Worker;
use crate::table::limits::{RouteLimits, RouteSlot};
use crate::table::{InFlight, Route, Target, TargetState};

/// What the access log wants to know of the request; made only when the log is on, because it
/// copies.
#[derive(Debug)]
pub struct RequestNote {
    /// The pieces of text, one behind the other: in one allocation.
    text: Vec<u8>,
    host: Range<usize>,
    uri: Range<usize>,
    user_agent: Option<Range<usize>>,
    referer: Option<Range<usize>>,
    /// The id sent upstream.
    pub request_id: Option<HeaderValue>,
    /// The client, where a trusted proxy names one.
    pub client: Option<IpAddr>,
    /// The route that matched.
    pub route: Option<Arc<Route>>,
    /// What a custom format shows.
    pub custom: Option<CustomLogFields>,
}

impl RequestNote {
    /// Copies host, path and query of the request; user agent and referer too, if they are there.
    #[must_use]
    pub fn new(
        host: &[u8],
        uri: &[u8],
        user_agent: Option<&[u8]>,
        referer: Option<&[u8]>,
    ) -> Box<Self> {
        let length = |piece: Option<&[u8]>| piece.map_or(0, <[u8]>::len);
        let mut text =
            Vec::with_capacity(host.len() + uri.len() + length(user_agent) + length(referer));
        let mut put = |piece: &[u8]| {
            let start = text.len();
            text.extend_from_slice(piece);
            start..text.len()
        };
        let (host, uri) = (put(host), put(uri));
        let (user_agent, referer) = (user_agent.map(&mut put), referer.map(&mut put));
        Box::new(Self {
            text,
            host,
            uri,
            user_agent,
            referer,
            request_id: None,
            client: None,
            route: None,
            custom: None,
        })
    }

    /// The same of a request with this head.
    #[must_use]
    pub fn of(head: &Head<'_>) -> Box<Self> {
        let (user_agent, referer) = (head.fields.get(&USER_AGENT), head.fields.get(&REFERER));
        Self::new(
            head.host.unwrap_or(b""),
            head.target.as_bytes(),
            user_agent,
            referer,
        )
    }

    /// Empty, if it is not text.
    fn text(&self, piece: &Range<usize>) -> &str {
        std::str::from_utf8(&self.text[piece.clone()]).unwrap_or("")
    }

    fn bytes(&self, piece: Option<&Range<usize>>) -> Option<&[u8]> {
        piece.map(|piece| &self.text[piece.clone()])
    }
}

/// What the route of a request does to responses.
#[derive(Debug)]
struct RouteEdits {
    policies: Arc<Policies>,
    /// The origin that the request names, where that matters.
    origin: Option<HeaderValue>,
    /// It is the response to a preflight.
    preflight: bool,
}

/// Everything that ends with an exchange. Complete it when the response is through; dropping it
/// earlier means that the client went away or the upstream broke off.
#[derive(Debug)]
pub struct RequestRecord {
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    started: Instant,
    method: Method,
    version: Version,
    status: u16,
    error: Option<&'static str>,
    service: Option<Arc<ServiceMetrics>>,
    target: Option<Arc<TargetState>>,
    in_flight: Option<InFlight>,
    /// Its place among those of its route, where these are limited.
    slot: Option<RouteSlot>,
    /// The limits that a token was taken of for it.
    paid: Option<Arc<RouteLimits>>,
    /// The schemes that let it in, for routes of these ids, with what they change in it.
    admitted: Vec<(u64, Box<str>, Option<Box<Granted>>)>,
    /// What the route does to responses, where it does anything.
    edits: Option<Box<RouteEdits>>,
    /// Its place on a shared connection.
    stream: Option<StreamGuard>,
    upload: Option<Rc<UploadProgress>>,
    attempts: u32,
    upstream_took: Option<Duration>,
    bytes_out: u64,
    note: Option<Box<RequestNote>>,
    observed: RequestObserver,
    /// Of a call of gRPC: its status, once that is known.
    call: Option<Option<u32>>,
    ended: bool,
    deadline: Option<RequestDeadline>,
}

impl RequestRecord {
    /// As [`Self::new`], where it will be moved about.
    #[must_use]
    pub fn open(
        worker: &Rc<Worker>,
        downstream: &Rc<Downstream>,
        method: Method,
        version: Version,
        note: Option<Box<RequestNote>>,
    ) -> Box<Self> {
        Box::new(Self::new(
            Instant::now(),
            worker,
            downstream,
            method,
            version,
            note,
        ))
    }

    /// Opens the record of a request whose head was there at `started`; it ends as 499 unless it
    /// learns better.
    #[must_use]
    pub fn new(
        started: Instant,
        worker: &Rc<Worker>,
        downstream: &Rc<Downstream>,
        method: Method,
        version: Version,
        note: Option<Box<RequestNote>>,
    ) -> Self {
        downstream.watch.begin();
        Self {
            worker: Rc::clone(worker),
            downstream: Rc::clone(downstream),
            started,
            method,
            version,
            status: 499,
            error: None,
            service: None,
            target: None,
            in_flight: None,
            slot: None,
            paid: None,
            admitted: Vec::new(),
            edits: None,
            stream: None,
            upload: None,
            attempts: 0,
            upstream_took: None,
            bytes_out: 0,
            note,
            observed: RequestObserver::new(&downstream.listener),
            call: None,
            ended: false,
            deadline: None,
        }
    }

    /// When the request's head was there.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The version the client spoke.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The log's note, to add to.
    pub fn note(&mut self) -> Option<&mut RequestNote> {
        self.note.as_deref_mut()
    }

    /// The service that the request belongs to: from here on it counts there.
    pub fn set_service(&mut self, service: &Arc<ServiceMetrics>) {
        match &self.service {
            Some(present) if Arc::ptr_eq(present, service) => {}
            present => {
                if let Some(previous) = present {
                    previous.in_flight.fetch_sub(1, Relaxed);
                }
                service.in_flight.fetch_add(1, Relaxed);
                self.service = Some(Arc::clone(service));
            }
        }
    }

    /// One more attempt goes to `target`.
    pub fn attempt_started(&mut self, target: &Target) {
        self.attempts += 1;
        self.target = Some(Arc::clone(&target.state));
        self.observed.goes_to(target);
    }

    /// The progress of the upload, for the byte counters.
    pub fn uploads(&mut self, progress: &Rc<UploadProgress>) {
        self.upload = Some(Rc::clone(progress));
    }

    /// A body of so many bytes was taken from the client as a whole.
    pub fn set_request_bytes(&mut self, bytes: usize) {
        if let Some(service) = self.service.as_ref().filter(|_| bytes > 0) {
            service.bytes_in.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// The response's head is there.
    pub fn set_response(
        &mut self,
        target: &Target,
        status: u16,
        in_flight: InFlight,
        stream: Option<StreamGuard>,
        took: Duration,
    ) {
        self.target = Some(Arc::clone(&target.state));
        self.observed.goes_to(target);
        self.status = status;
        self.in_flight = Some(in_flight);
        self.stream = stream;
        self.upstream_took = Some(took);
    }

    /// It counts among the requests of its route.
    pub fn takes_slot(&mut self, slot: Option<RouteSlot>) {
        self.slot = slot;
    }

    /// A token was taken for it. It takes no second one of them, however often it is decided about.
    pub fn pays(&mut self, limits: &Arc<RouteLimits>) {
        self.paid = Some(Arc::clone(limits));
    }

    /// Whether a token of these limits was taken for it.
    #[must_use]
    pub fn has_paid(&self, limits: &Arc<RouteLimits>) -> bool {
        self.paid
            .as_ref()
            .is_some_and(|paid| Arc::ptr_eq(paid, limits))
    }

    /// A scheme has let it in to a route.
    pub fn admitted(&mut self, route: &Route, scheme: &str, granted: Option<Box<Granted>>) {
        self.admitted.push((route.id, scheme.into(), granted));
    }

    /// What the scheme changes in it that has let it in to a route; none: it has not.
    #[must_use]
    pub fn granted_by(&self, route: &Route, scheme: &str) -> Option<Option<&Granted>> {
        let mut admitted = self.admitted.iter();
        let found = admitted.find(|(id, name, _)| (*id, &**name) == (route.id, scheme))?;
        Some(found.2.as_deref())
    }

    /// Its response is to follow these; `origin`: the one that it names.
    pub fn follows(
        &mut self,
        policies: Option<&Arc<Policies>>,
        origin: impl FnOnce() -> Option<HeaderValue>,
    ) {
        if policies.is_none() && self.edits.is_none() {
            return;
        }
        let policies = policies.filter(|policies| policies.concerns_responses());
        self.edits = policies.map(|policies| {
            Box::new(RouteEdits {
                origin: policies.cors.as_ref().and_then(|_| origin()),
                policies: Arc::clone(policies),
                preflight: false,
            })
        });
    }

    /// The response made here is the one to a preflight.
    pub fn to_preflight(&mut self, fields: &mut HeaderMap) {
        if let Some(edits) = &mut self.edits
            && let Some(cors) = &edits.policies.cors
        {
            edits.preflight = true;
            cors.put_preflight(edits.origin.as_ref().map(HeaderValue::as_bytes), fields);
        }
    }

    /// What the route does to the fields of the response.
    #[must_use]
    pub fn response_edits(&self) -> Option<ResponseEdits<'_>> {
        let edits = self.edits.as_ref()?;
        let origin = edits.origin.as_ref().map(HeaderValue::as_bytes);
        edits.policies.response_edits(origin, edits.preflight)
    }

    /// The page that takes the place of a response with this status.
    #[must_use]
    pub fn page<'p>(&self, files: &'p ErrorPageFiles, status: u16) -> Option<&'p ErrorPage> {
        // Calls of gRPC know no pages.
        let edits = self.edits.as_ref().filter(|_| self.call.is_none())?;
        files.page(edits.policies.error_pages.as_ref()?, status)
    }

    /// Does to a response that is made here what the route does to all of them.
    pub fn edit_own(&self, response: &mut Response<Bytes>, files: &ErrorPageFiles) {
        if let Some(page) = self.page(files, response.status().as_u16()) {
            *response.body_mut() = page.content.clone();
            replace_content(response.headers_mut(), &page.content_type);
        }
        if let Some(edits) = self.response_edits() {
            edits.apply(response.headers_mut());
        }
    }

    /// Whether nothing of the request is still to come.
    #[must_use]
    pub fn is_uploaded(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.done.get())
    }

    /// It is a call of gRPC.
    pub fn is_call(&mut self) {
        self.call = Some(None);
    }

    /// The proxy responds by itself, because of `error`.
    pub fn refused(&mut self, error: &ProxyError, status: u16) {
        self.status = status;
        self.error = Some(error.class());
        // A client that went away gets no response.
        if *error != ProxyError::ClientClosed {
            self.outcomes().record_error(error.class());
        }
    }

    fn outcomes(&self) -> &Outcomes {
        self.service.as_ref().map_or_else(
            || self.worker.metrics.unrouted(),
            |service| &service.outcomes,
        )
    }

    /// The proxy responds by itself, as configured or requested (redirects, `OPTIONS *`).
    pub fn responded_here(&mut self, status: u16) {
        self.status = status;
    }

    /// The proxy responds with a redirect.
    pub fn redirected(&mut self, status: u16) {
        self.responded_here(status);
        if let Some(observer) = &self.downstream.listener.observer {
            observer.redirect(status);
        }
    }

    /// Header fields, or trailers, of the response: where gRPC says how the call went.
    pub fn metadata(&mut self, fields: &HeaderMap) {
        self.observed.metadata(fields);
        if let Some(call) = &mut self.call
            && let Some(status) = grpc::status_in(fields)
        {
            *call = Some(status);
        }
    }

    fn grpc_status(&self) -> Option<u32> {
        self.call
            .map(|told| grpc::status_of(told, self.status, self.error))
    }

    /// Counts body bytes towards the client.
    pub fn add_bytes(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes_out += bytes;
        if let Some(service) = &self.service {
            service.bytes_out.fetch_add(bytes, Relaxed);
        }
    }

    /// From now on it may take `limit`.
    pub fn limit(&mut self, limit: Duration) {
        self.deadline = Some(RequestDeadline::new(
            self.downstream.watch.deadlines(),
            limit,
            self.worker.clock.now_ms(),
        ));
    }

    /// From now on it may take as long as it likes.
    pub fn unlimit(&mut self) {
        self.deadline = None;
    }

    /// When it has to be over, if at all.
    #[must_use]
    pub fn ends_by(&self) -> Option<tokio::time::Instant> {
        self.deadline.as_ref().map(RequestDeadline::at)
    }

    /// Whether it takes longer than it may. The task is woken when it begins to.
    pub fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline
            .as_mut()
            .is_some_and(|deadline| deadline.is_past(cx))
    }

    /// The response broke off inside the body: the client's connection will be cut.
    pub fn abort(&mut self, class: &'static str, error: &dyn std::fmt::Display) {
        self.error = Some(class);
        // The end of the connection is the end of the response for such a client: it has to see a
        // broken one.
        if self.version == Version::HTTP_10 {
            self.downstream.watch.reset_at_end();
        }
        tracing::debug!(%error, "a response broke off inside its body");
        self.end();
    }

    /// The tunnel behind a 101 ended.
    pub fn tunnelled(&mut self, bytes_out: u64) {
        self.bytes_out = bytes_out;
        self.end();
    }

    /// The response is through.
    pub fn complete(&mut self) {
        self.complete_at(Instant::now());
    }

    /// The response was through at `now`.
    pub fn complete_at(&mut self, now: Instant) {
        self.end_at(now);
    }

    fn end(&mut self) {
        self.end_at(Instant::now());
    }

    fn end_at(&mut self, now: Instant) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.downstream.watch.end();
        self.in_flight = None;
        self.slot = None;
        self.stream = None;
        self.deadline = None;
        let took = now.saturating_duration_since(self.started);
        self.observed.end(self.status, took);
        if let Some(status) = self.grpc_status() {
            self.outcomes().record_call(status);
        }
        if let Some(service) = &self.service {
            service.in_flight.fetch_sub(1, Relaxed);
            if self.status == 101 {
                service.record_upgraded(&self.method, self.status, took);
            } else {
                service.record_request(&self.method, self.status, took);
            }
            if let Some(upload) = &self.upload {
                service.bytes_in.fetch_add(upload.bytes.get(), Relaxed);
            }
        }
        if let Some(note) = self.note.take() {
            self.log(&note, took);
        }
    }

    fn log(&self, note: &RequestNote, took: Duration) {
        let peer = self.downstream.client.ip();
        let remote = note.client.unwrap_or(peer);
        // Proxies do not say from which port their clients came.
        let port = if remote == peer {
            self.downstream.port
        } else {
            0
        };
        self.worker.access.log(&AccessRecord {
            time: SystemTime::now(),
            remote,
            method: self.method.as_str(),
            host: note.text(&note.host),
            uri: note.text(&note.uri),
            version: self.version,
            status: self.status,
            bytes_out: self.bytes_out,
            duration: took,
            service: self.service.as_ref().map(|service| &**service.name()),
            instance: self.target.as_ref().map(|target| &target.id),
            upstream: self.target.as_ref().map(|target| target.addr),
            attempts: self.attempts,
            upstream_duration: self.upstream_took,
            route: note.route.as_ref().map(|route| &route.key),
            error: self.error,
            request_id: note.request_id.as_ref().and_then(|id| id.to_str().ok()),
            user_agent: note.bytes(note.user_agent.as_ref()),
            referer: note.bytes(note.referer.as_ref()),
            tls: self.downstream.tls_version(),
            grpc_status: self.grpc_status(),
            tcp: None,
            more: note.custom.as_ref().map(|fields| fields.more(port)),
        });
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.ended {
            // A status that was sent stays in the record, with the reason for the short body.
            self.error.get_or_insert(ProxyError::ClientClosed.class());
            self.end();
        }
    }
}
