//! The reader of HTTP/1: the requests of one client connection, one after another.
//!
//! ```text
//!             ┌──────────────────────── next request ◄─────────────────────────┐
//!             ▼                                                                 │
//!  client ─► head ─► decide ─► (short body) ─► attempts ─► head of response ─► body
//!             │ bad     │ respond                              │ 101
//!             ▼         ▼                                      ▼
//!          refused    own response                          tunnel
//! ```
//!
//! - **A short body is read before its request is sent on**: an instance sees nothing of one that
//!   breaks off, and the request can be sent again. Others are sent on as they come, as fast as the
//!   instance takes them.
//! - **Idle costs little but the socket.** No buffer is held while nothing lies in it. A connection
//!   between requests that has been quiet for a while is *parked* ([`active`](super::active),
//!   [`parked`](super::parked)): all that serving takes is given up, and a small future waits for
//!   the next byte, the idle limit and the drain. It is parked only where nothing is held for it:
//!   the response to every request that was read is written, and all that could be read was read,
//!   so that there is no byte of the client, in the clear or decrypted, that no socket would tell
//!   of.
//! - **No allocation in steady state.** Buffers, heads and lists of fields go back to the worker's
//!   scratch; to wake up costs some, which is why no connection is parked between requests that
//!   follow each other.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use http::{HeaderValue, Method, Response, StatusCode, Version};
use tokio::time::Instant;

use super::active::Listed;
use super::downstream::Downstream;
use super::end::End;
use super::h1_response::{BoundConnection, Responder};
use super::h1_stream::{H1Body, H1Stream, discard};
use super::prepared::prepared;
use super::replaced::replaced;
use super::request_note::note_of;
use super::tunnel::Tunnel;
use crate::config::ListenerProtocol;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::drain::Phase;
use crate::proxy::error::ProxyError;
use crate::proxy::http::connection_auth;
use crate::proxy::http::decide::{self, Decision, Forward, Incoming, Own, fresh_id};
use crate::proxy::http::h1::buffer::{Buffer, READ_MIN};
use crate::proxy::http::h1::request_head::{self, BodyFraming, Parsed, RequestHead};
use crate::proxy::http::h1::scan::Field;
use crate::proxy::http::h1::spelling::Spelling;
use crate::proxy::http::h1::syntax::{Limits, Violation};
use crate::proxy::http::h1::write_head::{ClientLines, Fate, response_map};
use crate::proxy::http::head::{Content, Head};
use crate::proxy::http::headers;
use crate::proxy::http::mirror::Original;
use crate::proxy::http::path;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::request_body::{IncomingBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http::upstream::exchange::{Exchange, Timing};
use crate::proxy::http::upstream::h1::H1Response;
use crate::proxy::http::upstream::response::UpstreamResponse;
use crate::proxy::moving_deadline::MovingDeadline;
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::Target;

/// Longest body that is read before the request is sent on, in bytes: short bodies come with their
/// head.
const SHORT_MAX: u64 = 64 << 10;

/// How often a request is decided about, as long as the table changes under it.
const DECISIONS_MAX: u32 = 3;

/// One client connection.
#[derive(Debug)]
pub struct Client<'a> {
    worker: &'a Rc<Worker>,
    downstream: &'a Rc<Downstream>,
    stream: Rc<RefCell<H1Stream>>,
    ahead: Option<Buffer>,
    fields: Vec<Field>,
    lines: Option<Rc<ClientLines>>,
    timer: MovingDeadline,
    listed: Option<Listed<'a>>,
    /// A connection to an instance that is this client's alone.
    bound: Option<BoundConnection>,
}

/// Where a request stands.
enum Step {
    /// Its response is written.
    Over { close: bool },
    /// The table has changed since its instance was picked, and nothing of a response was sent yet.
    Again,
    /// All of its body is wanted before anything is sent.
    WantsBody,
}

/// What stays the same however often a request is looked at.
struct Began {
    /// How often it may be decided about anew.
    again: u32,
    started: Instant,
    now_ms: u64,
    id: Option<HeaderValue>,
}

impl<'a> Client<'a> {
    /// A connection of which nothing is held.
    #[must_use]
    pub fn new(
        worker: &'a Rc<Worker>,
        downstream: &'a Rc<Downstream>,
        stream: Rc<RefCell<H1Stream>>,
    ) -> Self {
        downstream.watch.reads_h1();
        // Empty, not none: TLS may hold decrypted bytes that no socket tells of.
        let ahead = Some(worker.scratch.buffers.for_request());
        let (fields, lines, timer) = (Vec::new(), None, MovingDeadline::default());
        Self {
            worker,
            downstream,
            stream,
            ahead,
            fields,
            lines,
            timer,
            listed: None,
            bound: None,
        }
    }

    /// Serves its requests.
    pub async fn serve(&mut self) -> End {
        loop {
            let served = async {
                let (settings, head) = self.next_head().await?;
                self.one(&settings, head).await
            };
            if let Err(end) = served.await {
                return end;
            }
        }
    }

    fn filled(&self) -> &[u8] {
        self.ahead.as_ref().map_or(&[], Buffer::filled)
    }

    async fn next_head(&mut self) -> Result<(Arc<Settings>, RequestHead), End> {
        let buffers = &self.worker.scratch.buffers;
        let (mut blank, mut looked_at) = (false, 0);
        loop {
            // A head is looked at again only when another of its lines is whole: there are so few
            // of them that looking from its beginning each time costs little, however small the
            // pieces are in which it comes.
            let is_new_line =
                |buffer: &Buffer| memchr::memchr(b'\n', &buffer.filled()[looked_at..]).is_some();
            let settings = self.worker.settings();
            let limits = Limits::new(&settings.proxy);
            if let Some(buffer) = self
                .ahead
                .as_mut()
                .filter(|buffer| !buffer.filled().is_empty())
            {
                let whole = buffer.filled().len();
                if is_new_line(buffer) || whole > limits.head_bytes_max {
                    if self.fields.capacity() == 0 {
                        self.fields = buffers.for_fields();
                    }
                    match request_head::parse(buffer.filled(), limits, &mut self.fields) {
                        Parsed::Whole(head) => return Ok((settings, head)),
                        Parsed::Blank if !blank => {
                            blank = true;
                            buffer.consume(2);
                            self.downstream
                                .watch
                                .set_between(buffer.filled().is_empty());
                            looked_at = 0;
                            continue;
                        }
                        Parsed::Blank => {
                            return Err(End::Refuse(Violation::bad(
                                "more than one empty line before the request line",
                            )));
                        }
                        Parsed::Bad(violation) => return Err(End::Refuse(violation)),
                        Parsed::Partial => {}
                    }
                }
                looked_at = whole;
                buffer.make_room(READ_MIN);
                self.downstream.watch.set_between(false);
            }
            let (active, listed, downstream) = (
                &self.worker.scratch.active,
                &mut self.listed,
                self.downstream,
            );
            let may_park = !blank && self.bound.is_none();
            let parks = |cx: &mut Context<'_>| {
                listed.get_or_insert_with(|| active.enter(downstream, cx));
                downstream.watch.is_told_to_park() && may_park
            };
            match H1Stream::fill_unless(&self.stream, parks, &mut self.ahead).await {
                Ok(Some(1..)) => {}
                Ok(Some(0)) => return Err(End::Orderly(b"")),
                Ok(None) => return Err(End::Park),
                Err(_) => return Err(End::Abrupt),
            }
        }
    }

    /// Serves one request.
    async fn one(&mut self, settings: &Arc<Settings>, head: RequestHead) -> Result<(), End> {
        let started = Instant::now();
        let mut began = Began {
            again: DECISIONS_MAX - 1,
            started,
            now_ms: self.worker.clock.at(started.into_std()),
            id: fresh_id(settings),
        };
        // It stays where it is: it is large, and taken away by rare responses alone.
        let mut record = Some(self.open(settings, &head, &began));
        let close = loop {
            match self.look(settings, &head, &began, &mut record).await? {
                Step::Over { close } => break close,
                Step::Again => began.again -= 1,
                Step::WantsBody => {
                    self.read_body(&head).await?;
                    // What was decided before may not hold any more: instances come and go while a
                    // client sends.
                    let now = Instant::now();
                    (began.started, began.now_ms) = (now, self.worker.clock.at(now.into_std()));
                }
            }
        };
        self.leave_behind(&head);
        // A drain that began meanwhile ends the connection behind this response.
        match close || self.downstream.phase.get() >= Phase::Draining {
            false => Ok(()),
            true if !head.keep && self.filled().is_empty() => Err(End::Done),
            true => Err(End::Orderly(b"")),
        }
    }

    /// Opens the record of a request.
    fn open(&self, settings: &Settings, head: &RequestHead, began: &Began) -> RequestRecord {
        let (worker, downstream) = (self.worker, self.downstream);
        let bytes = self.filled();
        let scrape = downstream.listener.config.protocol == ListenerProtocol::Prometheus;
        let note = (worker.access.is_on() && !scrape).then(|| {
            let head = Head::of_lines(bytes, head, &self.fields, Content::Whole(b""));
            note_of(worker, downstream, settings, &head, began.id.as_ref())
        });
        let started = began.started.into_std();
        let mut finish = RequestRecord::new(
            started,
            worker,
            downstream,
            head.method.clone(),
            head.version,
            note,
        );
        if head.grpc {
            finish.is_call();
        } else if let Some(limit) = downstream.listener.limits(&settings.proxy).request {
            // Calls of gRPC bring their own.
            finish.limit(limit);
        }
        finish
    }

    /// How much of a short body is there.
    fn body_at_hand(&self, head: &RequestHead) -> Option<usize> {
        let BodyFraming::Length(length @ ..=SHORT_MAX) = head.body else {
            return None;
        };
        let whole = usize::try_from(length).unwrap_or(usize::MAX);
        Some(self.filled().len().saturating_sub(head.length).min(whole))
    }

    /// Decides about a request, and serves it if all that takes is there.
    async fn look(
        &mut self,
        settings: &Arc<Settings>,
        head: &RequestHead,
        began: &Began,
        record: &mut Option<RequestRecord>,
    ) -> Result<Step, End> {
        let Some(finish) = record.as_mut() else {
            return Err(End::Abrupt);
        };
        let limits = Limits::new(&settings.proxy);
        let at_hand = self.body_at_hand(head);
        let Self {
            worker,
            downstream,
            stream,
            ahead,
            fields,
            lines,
            timer,
            bound,
            ..
        } = self;
        let bytes = ahead.as_ref().map_or(&[][..], Buffer::filled);
        let short = match head.body {
            BodyFraming::Length(length @ ..=SHORT_MAX) => usize::try_from(length).ok(),
            _ => None,
        };
        let is_whole = short.is_some() && short == at_hand;
        let behind = bytes.get(head.length..).unwrap_or_default();
        let content = match (short, head.body) {
            // A short one that is still coming is decided about as if it were there.
            (Some(_), _) => Content::Whole(&behind[..at_hand.unwrap_or(0)]),
            (None, BodyFraming::Length(length)) => Content::Streamed(Some(length)),
            (None, BodyFraming::Chunked) => Content::Streamed(None),
        };
        let seen = Head::of_lines(bytes, head, fields, content);
        let path = path::normalise(seen.path(), settings.proxy.merge_slashes).ok();
        let incoming = Incoming {
            worker,
            downstream,
            settings,
            head: &seen,
            path: path.as_ref(),
            id: began.id.as_ref(),
        };
        let table = worker.table_number();
        let decision = decide::decide(&incoming, finish, began.now_ms).await;
        let drains = downstream.phase.get() >= Phase::Draining;
        let mut responder = Responder {
            worker,
            downstream,
            client: stream,
            settings,
            version: head.version,
            head_only: head.method == Method::HEAD,
            fate: fate(head, drains),
            binds: false,
            bound: None,
            cookie: None,
            timer,
        };
        let mut forward = match decision {
            Decision::Forward(forward) => forward,
            Decision::Respond(own) => {
                // The rest of the body is in the way of the next request.
                let is_read = is_whole || (!head.expects && short.is_some());
                let close = own.close || !is_read || !head.keep || drains;
                if close {
                    responder.fate = Fate::Closes;
                }
                responder.own(own.response, finish).await?;
                if !close && !is_whole {
                    let rest = BodyFraming::Length(short.unwrap_or(0) as u64);
                    stream.borrow_mut().begin_body(rest, limits, behind, false);
                    // It is this request that goes on: no next one is waited for.
                    downstream.watch.begin();
                    let discarded = discard(stream, SHORT_MAX as usize).await;
                    downstream.watch.end();
                    if !discarded {
                        return Err(End::Abrupt);
                    }
                }
                return Ok(Step::Over { close });
            }
        };
        if short.is_some() && !is_whole {
            return Ok(Step::WantsBody);
        }
        let (over, mut streamed) = (UploadProgress::over(), None);
        let body = match seen.content {
            Content::Whole(content) => {
                downstream.watch.set_between(true);
                stream.borrow_mut().set_behind(behind.len() - content.len());
                finish.set_request_bytes(content.len());
                RequestBody::AtHand
            }
            Content::Streamed(length) => {
                let progress = Rc::clone(streamed.insert(Rc::default()));
                stream.borrow_mut().set_behind(0);
                stream
                    .borrow_mut()
                    .begin_body(head.body, limits, behind, head.expects);
                finish.uploads(&progress);
                let body = IncomingBody::H1(H1Body::new(stream));
                RequestBody::Streamed(Upload::new(body, length, &progress, worker.clock))
            }
        };
        if lines.as_ref().is_none_or(|lines| !lines.are_of(settings)) {
            *lines = Some(
                worker
                    .scratch
                    .lines
                    .of(settings, &downstream.client, head.version),
            );
        }
        let (Some(lines), Some(path)) = (lines, &path) else {
            return Err(End::Abrupt);
        };
        let bound = bound
            .take()
            .and_then(|bound| goes_to(bound, &incoming, &mut forward));
        responder.binds = bound.is_some();
        let exchange = Exchange {
            incoming: &incoming,
            path,
            forward: &forward,
            lines,
            bound: RefCell::new(bound),
        };
        let timing = Timing {
            now: began.started,
            now_ms: began.now_ms,
            timer: responder.timer,
        };
        let (upload, mut response) = (streamed.as_deref().unwrap_or(&over), None);
        let aside = |cx: &mut Context<'_>| stream.borrow_mut().poll_aside(cx);
        let original = Original::of(&exchange, &body);
        let found = exchange
            .find(body, upload, timing, finish, &mut response, aside)
            .await;
        let Ok(found) = found else {
            return Err(End::Abrupt);
        };
        responder.fate = fate(head, downstream.phase.get() >= Phase::Draining);
        if !stream.borrow().is_body_read() {
            // What is left of it would be in the way of the next request.
            responder.fate = Fate::Closes;
        }
        let switching = response
            .as_ref()
            .is_some_and(|response| response.status() == 101);
        let found = match found {
            Ok(_) if switching && seen.upgrade.is_none() => Err(ProxyError::Upstream(
                "it switches protocols although the request has no upgrade".to_owned(),
            )),
            // What is left of it would be taken for the other protocol.
            Ok(_) if switching && !stream.borrow().is_body_read() => Err(ProxyError::Upstream(
                "it switches protocols inside the request's body".to_owned(),
            )),
            found => found,
        };
        if let (Some(original), Ok(target)) = (original, &found) {
            original.copy(&exchange, target);
        }
        match found {
            Ok(target) if switching => {
                responder.cookie = forward.set_cookie(&incoming, target);
                let ahead = match seen.content {
                    Content::Whole(content) => &behind[content.len()..],
                    Content::Streamed(_) => b"",
                };
                Err(Box::pin(switch(
                    &mut responder,
                    ahead,
                    response.take(),
                    target,
                    record,
                ))
                .await?)
            }
            Ok(target) => {
                responder.binds |= response
                    .as_ref()
                    .is_some_and(|it| connection_auth::binds(&seen, it));
                responder.cookie = forward.set_cookie(&incoming, target);
                respond(&mut responder, &incoming, &mut response, target, record).await?;
                self.bound = responder.bound.take();
                let close = responder.fate == Fate::Closes || !stream.borrow().is_body_read();
                Ok(Step::Over { close })
            }
            Err(error)
                if began.again > 0
                    && worker.table_number() != table
                    && seen.may_go_elsewhere(&error, false) =>
            {
                Ok(Step::Again)
            }
            Err(error) => {
                tracing::debug!(%error, service = %forward.first().service.name(), "request failed");
                let Own { response, close } = incoming.refuse(&error, finish);
                if close || !stream.borrow().is_body_read() {
                    responder.fate = Fate::Closes;
                }
                responder.own(response, finish).await?;
                Ok(Step::Over {
                    close: responder.fate == Fate::Closes,
                })
            }
        }
    }

    /// Reads until a short body is there as a whole. The watchdog looks after it.
    async fn read_body(&mut self, head: &RequestHead) -> Result<(), End> {
        let BodyFraming::Length(length) = head.body else {
            return Ok(());
        };
        let whole = head.length + usize::try_from(length).unwrap_or(usize::MAX);
        let buffers = &self.worker.scratch.buffers;
        if head.expects && self.filled().len() == head.length {
            self.downstream
                .interim
                .borrow_mut()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.downstream.watch.set_between(false);
        loop {
            let there = self.filled().len();
            if there >= whole {
                self.downstream.watch.set_between(true);
                return Ok(());
            }
            if let Some(buffer) = &mut self.ahead {
                buffers.make_room(buffer, whole - there);
            }
            match H1Stream::fill(&self.stream, &mut self.ahead).await {
                Ok(1..) => {}
                _ => return Err(End::Abrupt),
            }
        }
    }

    /// Takes the request out of the buffer, and lets others have what is not needed between
    /// requests.
    fn leave_behind(&mut self, head: &RequestHead) {
        let buffers = &self.worker.scratch.buffers;
        if let Some(buffer) = &mut self.ahead {
            match head.body {
                BodyFraming::Length(length @ ..=SHORT_MAX) => {
                    let rest = buffer.filled().len() - head.length;
                    buffer.consume(
                        head.length + rest.min(usize::try_from(length).unwrap_or(usize::MAX)),
                    );
                }
                // What was read of it went into the stream's own buffer.
                _ => buffer.consume(buffer.filled().len()),
            }
        }
        self.stream.borrow_mut().fetch(&mut self.ahead);
        self.downstream.watch.set_between(self.filled().is_empty());
        buffers.give_back_fields(std::mem::take(&mut self.fields));
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        let buffers = &self.worker.scratch.buffers;
        if let Some(ahead) = self.ahead.take() {
            buffers.give_back(ahead);
        }
        if self.fields.capacity() > 0 {
            buffers.give_back_fields(std::mem::take(&mut self.fields));
        }
    }
}

fn fate(head: &RequestHead, drains: bool) -> Fate {
    match (head.keep && !drains, head.version) {
        (false, _) => Fate::Closes,
        (true, Version::HTTP_10) => Fate::Keeps,
        (true, _) => Fate::Silent,
    }
}

/// Sends the request where its client's own connection leads, if it may go there.
fn goes_to(
    bound: BoundConnection,
    incoming: &Incoming<'_>,
    forward: &mut Forward,
) -> Option<UpstreamStream> {
    let fits = |target: &Target| {
        target.state.key == bound.instance
            && PoolKey::of(target, &incoming.settings.client_certificates) == bound.key
    };
    let at = forward.route.targets.iter().position(fits)?;
    let target = &forward.route.targets[at];
    if incoming
        .respond_here(target, &forward.admitted_by)
        .is_some()
    {
        return None;
    }
    forward.first = at;
    Some(bound.stream)
}

/// Passes on the response of an instance.
async fn respond(
    responder: &mut Responder<'_>,
    incoming: &Incoming<'_>,
    found: &mut Option<UpstreamResponse>,
    target: &Target,
    record: &mut Option<RequestRecord>,
) -> Result<(), End> {
    let Some(finish) = record.as_mut() else {
        return Err(End::Abrupt);
    };
    let (head, listener) = (incoming.head, &incoming.downstream.listener);
    incoming.follow(target, finish);
    // What binds a connection to its client is passed on: the client responds to it.
    if !responder.binds
        && let Some(own) = replaced(incoming, found, target, finish)
    {
        return Box::pin(responder.own(own, finish)).await;
    }
    let Some(response) = found.as_mut() else {
        return Err(End::Abrupt);
    };
    // What instances of gRPC send is theirs to compress, message by message.
    let compression = incoming.settings.compression.as_ref().filter(|rules| {
        !head.grpc && rules.may_concern(response.status(), response.field("content-type"))
    });
    match response {
        UpstreamResponse::H1(response)
            if compression.is_none()
                && !head.grpc
                && !listener.is_grpc()
                && responder.passes_bytes(response.head.framing) =>
        {
            responder.bytes(found, target, finish).await
        }
        response => {
            if let (true, UpstreamResponse::H1(response)) = (responder.binds, response) {
                // Here it could not be kept for the client.
                response.head.keep = false;
            }
            let Some(response) = found.take() else {
                return Err(End::Abrupt);
            };
            let spelling = response.spelling();
            let streamed = response.into_streamed(incoming.worker, &target.state);
            let Some(finish) = record.take() else {
                return Err(End::Abrupt);
            };
            let cookie = responder.cookie.take();
            let response = prepared(incoming, streamed, (target, cookie), Box::new(finish));
            Box::pin(responder.frames(response, spelling.as_ref())).await
        }
    }
}

/// Passes on a 101, and makes the tunnel behind it. `ahead` is what was read behind the request.
async fn switch(
    responder: &mut Responder<'_>,
    ahead: &[u8],
    found: Option<UpstreamResponse>,
    target: &Target,
    record: &mut Option<RequestRecord>,
) -> Result<End, End> {
    let Some(mut finish) = record.take() else {
        return Err(End::Abrupt);
    };
    let Some(UpstreamResponse::H1(response)) = found else {
        return Err(End::Abrupt);
    };
    let H1Response {
        stream,
        mut buffer,
        head: answer,
        fields,
        in_flight,
        took,
        ..
    } = response;
    let mut map = response_map(buffer.filled(), &answer, &fields);
    for field in &fields {
        let name = field.name.of(buffer.filled());
        if name.eq_ignore_ascii_case(b"upgrade")
            && let Ok(value) = HeaderValue::from_bytes(field.value.of(buffer.filled()))
        {
            map.insert(http::header::UPGRADE, value);
        }
    }
    let spelling = Spelling::of(buffer.filled(), &answer, &fields);
    buffer.consume(answer.length);
    headers::prepare_response(
        &mut map,
        &responder.downstream.client,
        &responder.settings.header_rules,
        true,
    );
    if let Some(edits) = finish.response_edits() {
        edits.apply(&mut map);
    }
    if let Some(cookie) = responder.cookie.take() {
        map.append(http::header::SET_COOKIE, cookie);
    }
    let mut switching = Response::new(());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switching.headers_mut() = map;
    finish.set_response(target, 101, in_flight, None, took);
    finish.unlimit();
    responder.switch(&switching, &spelling).await?;
    // What the client sent behind its request is the tunnel's.
    let mut ahead = ahead.to_vec();
    ahead.extend_from_slice(&responder.client.borrow_mut().take_rest());
    let early = buffer.filled().to_vec();
    responder.worker.scratch.buffers.give_back(buffer);
    Ok(End::Tunnel(Box::new(Tunnel::new(
        responder.downstream,
        target,
        stream,
        early,
        ahead,
        Box::new(finish),
    ))))
}
