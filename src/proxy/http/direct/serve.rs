//! The requests of one client connection, one after another.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{REFERER, USER_AGENT};
use http::{HeaderName, HeaderValue, Version};
use tokio::time::Instant;

use super::attempt::{Again, DirectAnswer, Failed, Sending};
use super::awake::Listed;
use super::buffer::Buffer;
use super::front::Front;
use super::may_drive;
use super::pass_on::PassOn;
use super::plan::{Plan, all_carried};
use super::request_head::{self, Parsed, RequestHead};
use super::scan::Field;
use super::timer::Timer;
use super::wire::{ClientLines, Received};
use crate::proxy::drain::Phase;
use crate::proxy::error::ProxyError;
use crate::proxy::http::ask::{Asking, Deadlines, First, Running};
use crate::proxy::http::body::UploadProgress;
use crate::proxy::http::client_io::ClientStream;
use crate::proxy::http::connection::Downstream;
use crate::proxy::http::exchange::{error_answers, fresh_id};
use crate::proxy::http::forward::{AttemptError, is_idempotent, may_be_doubled};
use crate::proxy::http::headers;
use crate::proxy::http::path::{self, NormalPath};
use crate::proxy::http::record::{Finish, RequestNote};
use crate::proxy::http::strict::Limits;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::Target;

/// Reads that a head may take. Whoever sends it in smaller pieces is hyper's client: looking at it from its beginning
/// with each piece is fine for a few of them only.
const HEAD_READS_MAX: u32 = 8;

/// How a connection leaves the direct exchange.
#[derive(Debug)]
pub enum End {
    /// With bytes that others have to read.
    HandOver(Vec<u8>),
    /// After these last bytes, in good order.
    Orderly(&'static [u8]),
    /// As the client wanted it: everything it sent was read, and everything it asked for is written.
    Done,
    /// At once.
    Abrupt,
    /// Not at all: it has been quiet for a while, and nothing is held for it.
    Rest,
}

/// One client connection.
#[derive(Debug)]
pub struct Client<'a, T> {
    worker: &'a Rc<Worker>,
    downstream: &'a Rc<Downstream>,
    front: Front<'a, T>,
    ahead: Option<Buffer>,
    fields: Vec<Field>,
    lines: Option<Rc<ClientLines>>,
    timer: Timer,
    listed: Option<Listed<'a>>,
}

impl<'a, T: ClientStream> Client<'a, T> {
    /// A connection of which nothing is held.
    #[must_use]
    pub fn new(worker: &'a Rc<Worker>, downstream: &'a Rc<Downstream>, io: &'a mut T) -> Self {
        let guard = downstream.watch.new_guard();
        // Empty, not none: TLS may hold decrypted bytes that no socket tells of.
        let ahead = Some(worker.direct.buffers.for_request());
        let front = Front::new(io, guard);
        let (fields, lines, timer) = (Vec::new(), None, Timer::default());
        Self { worker, downstream, front, ahead, fields, lines, timer, listed: None }
    }

    /// Serves its requests, as long as they are usual.
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

    fn hand_over(&mut self) -> End {
        End::HandOver(self.ahead.take().map(|buffer| buffer.filled().to_vec()).unwrap_or_default())
    }

    async fn next_head(&mut self) -> Result<(Arc<Settings>, RequestHead), End> {
        let buffers = &self.worker.direct.buffers;
        for _ in 0..HEAD_READS_MAX {
            if let Some(buffer) = self.ahead.as_mut().filter(|buffer| !buffer.filled().is_empty()) {
                if self.fields.capacity() == 0 {
                    self.fields = buffers.for_fields();
                }
                let settings = self.worker.settings();
                let limits = Limits::new(&settings.proxy, false);
                match request_head::parse(buffer.filled(), limits, &mut self.fields) {
                    Parsed::Whole(head) => return Ok((settings, head)),
                    Parsed::Partial => buffer.make_room(super::buffer::READ_MIN),
                    Parsed::Unusual => break,
                }
                self.front.guard().note_between(false);
            }
            let (awake, listed) = (&self.worker.direct.awake, &mut self.listed);
            let rests = |cx: &mut Context<'_>| {
                listed.get_or_insert_with(|| awake.enter(self.downstream, cx));
                self.downstream.watch.is_told_to_rest()
            };
            match self.front.fill_unless(rests, &mut self.ahead, buffers).await {
                Ok(Some(1..)) => {}
                Ok(Some(0)) => return Err(End::Orderly(b"")),
                Ok(None) => return Err(End::Rest),
                Err(_) => return Err(End::Abrupt),
            }
        }
        Err(self.hand_over())
    }

    /// Answers one request, or leaves it as it was.
    async fn one(&mut self, settings: &Arc<Settings>, head: RequestHead) -> Result<(), End> {
        // The settings may be newer than the connection.
        let plan =
            if may_drive(self.worker, &self.downstream.listener, settings) { self.plan(settings, &head) } else { None };
        let Some(plan) = plan else { return Err(self.hand_over()) };
        let repeatable = head.body == 0 && is_idempotent(&head.method);
        let asking = Asking {
            worker: self.worker,
            downstream: self.downstream,
            settings,
            route: &plan.route,
            hash: plan.hash,
            version: Version::HTTP_11,
            repeatable,
            doublable: repeatable && may_be_doubled(&head.method),
        };
        // Before one is picked: a pick takes a turn, or a trial, that nobody else gets then.
        if !all_carried(&plan.route.targets, &self.downstream.client, &head) {
            return Err(self.hand_over());
        }
        // One look at the clock for all that happens before the request is sent.
        let now = Instant::now();
        let now_ms = self.worker.clock.at(now.into_std());
        let Some(first) = asking.pick_at(now_ms, &[]) else { return Err(self.hand_over()) };
        let id = fresh_id(settings);
        let note = self.note(&head, &plan, id.as_ref());
        let (worker, downstream) = (self.worker, self.downstream);
        let mut finish = Finish::new(now.into_std(), worker, downstream, head.method.clone(), Version::HTTP_11, note);
        finish.belongs_to(&first.service);
        self.front.guard().note_head();
        let (now, now_ms) = if self.read_body(&head).await? {
            let now = Instant::now();
            (now, self.worker.clock.at(now.into_std()))
        } else {
            (now, now_ms)
        };
        self.front.guard().note_between(true);
        finish.took_in(head.body);
        let asked = Asked { head: &head, id: id.as_ref(), as_it_came: plan.as_it_came, now, now_ms };
        let answer = self.ask(&asking, first, asked, settings, &mut finish).await?;
        let close = head.close || self.downstream.phase.get() >= Phase::Draining;
        let pass_on = PassOn { worker: self.worker, downstream: self.downstream, settings, close };
        let answer = answer.and_then(|(target, answer)| match answer.head.status {
            101 => Err(ProxyError::Upstream("it switches protocols although nobody asked".to_owned())),
            _ => Ok((target, answer)),
        });
        match answer {
            Ok((target, answer)) => pass_on.answer(&mut self.front, answer, target, &mut finish).await?,
            Err(error) => {
                tracing::debug!(%error, service = %first.service.name(), "request failed");
                let mut response = error.response(&error_answers(settings));
                let rules = &settings.header_rules;
                headers::secure_transport(response.headers_mut(), &self.downstream.client, rules);
                finish.refused(&error, response.status().as_u16());
                pass_on.own(&mut self.front, &response, &head.method, &mut finish).await?;
            }
        }
        self.leave_behind(&head);
        // A drain that began meanwhile ends the connection behind this answer.
        match close || self.downstream.phase.get() >= Phase::Draining {
            false => Ok(()),
            true if head.close && self.ahead.as_ref().is_none_or(|ahead| ahead.filled().is_empty()) => Err(End::Done),
            true => Err(End::Orderly(b"")),
        }
    }

    fn plan(&self, settings: &Settings, head: &RequestHead) -> Option<Plan> {
        let bytes = self.ahead.as_ref()?.filled();
        let path = path::normalise(head.path.text(bytes), settings.proxy.merge_slashes).ok()?;
        let received = Received { bytes, head, fields: &self.fields, path: &path, id: None };
        Plan::of(self.worker, self.downstream, &received)
    }

    /// For the access log, where there is one.
    fn note(&self, head: &RequestHead, plan: &Plan, id: Option<&HeaderValue>) -> Option<Box<RequestNote>> {
        if !self.worker.access.is_on() {
            return None;
        }
        let bytes = self.ahead.as_ref()?.filled();
        let field = |name: HeaderName| {
            let named = |field: &&Field| field.name.of(bytes).eq_ignore_ascii_case(name.as_str().as_bytes());
            self.fields.iter().find(named).map(|field| field.value.of(bytes))
        };
        let (host, uri) = (head.host.of(bytes), head.target.of(bytes));
        let mut note = RequestNote::new(host, uri, field(USER_AGENT), field(REFERER));
        note.request_id = id.cloned();
        note.route = Some(Arc::clone(&plan.route));
        Some(note)
    }

    /// Reads until the request is there as a whole; whether that took any time. The watchdog looks after it.
    async fn read_body(&mut self, head: &RequestHead) -> Result<bool, End> {
        let buffers = &self.worker.direct.buffers;
        let whole = head.length + head.body;
        let mut waited = false;
        loop {
            let there = self.ahead.as_ref().map_or(0, |buffer| buffer.filled().len());
            if there >= whole {
                return Ok(waited);
            }
            waited = true;
            self.front.guard().note_between(false);
            if let Some(buffer) = &mut self.ahead {
                buffers.make_room(buffer, whole - there);
            }
            match self.front.fill(&mut self.ahead, buffers).await {
                Ok(1..) => {}
                _ => return Err(End::Abrupt),
            }
        }
    }

    /// Finds an answer.
    async fn ask<'r>(
        &mut self,
        asking: &Asking<'r>,
        first: &'r Target,
        asked: Asked<'_>,
        settings: &Arc<Settings>,
        finish: &mut Finish,
    ) -> Result<Result<(&'r Target, DirectAnswer), ProxyError>, End> {
        let Self { worker, downstream, front, ahead, fields, lines, timer, .. } = self;
        let bytes = ahead.as_ref().map_or(&[][..], Buffer::filled);
        let Asked { head, id, as_it_came, now, now_ms } = asked;
        let text = head.path.text(bytes);
        let path = match as_it_came {
            true => Ok(NormalPath::as_it_came(text)),
            false => path::normalise(text, settings.proxy.merge_slashes),
        };
        let Ok(path) = path else { return Err(End::Abrupt) };
        if lines.as_ref().is_none_or(|lines| !lines.are_of(settings)) {
            *lines = Some(worker.direct.lines.of(settings, &downstream.client, Version::HTTP_11));
        }
        let Some(lines) = lines else { return Err(End::Abrupt) };
        let received = Received { bytes, head, fields, path: &path, id };
        let sending = Sending { worker, downstream, settings, received, lines, repeatable: asking.repeatable };
        let body_timeout = downstream.listener.limits(&settings.proxy).body;
        let deadlines = Deadlines::from(now, settings, body_timeout, asking.doublable, false);
        worker.budget.borrow_mut().record_request(now_ms);
        let begin = match sending.on_warm(first, now.into_std(), now_ms) {
            Ok(None) => First::New(first, Again),
            Err(error) => {
                finish.tries(first);
                First::Failed(first, error)
            }
            Ok(Some(mut sent)) => {
                finish.tries(first);
                let waited = loop {
                    let waiting = poll_fn(|cx| {
                        if let Poll::Ready(answered) = sent.poll(cx) {
                            return Poll::Ready(Ok(Waited::Over(answered)));
                        }
                        if sent.has_interim() {
                            return Poll::Ready(Err(sent.take_interim()));
                        }
                        if front.poll_aside(cx).is_ready() {
                            return Poll::Ready(Ok(Waited::ClientGone));
                        }
                        timer.poll_until(deadlines.next(), cx).map(|()| Ok(Waited::Late))
                    });
                    match waiting.await {
                        Err(interim) => front.write([&interim, b"", b""]).await.map_err(|_| End::Abrupt)?,
                        Ok(waited) => break waited,
                    }
                };
                match waited {
                    Waited::ClientGone => return Err(End::Abrupt),
                    Waited::Over(Err(error)) => First::Failed(first, error),
                    Waited::Over(Ok(())) => match sent.into_answer() {
                        Some(answer) => {
                            let failed = settings.health.error_status.counts(answer.head.status);
                            asking.answered(first, answer.took, worker.clock.at(answer.at), failed);
                            return Ok(Ok((first, answer)));
                        }
                        None => First::Failed(first, AttemptError::Request("no head was found".to_owned())),
                    },
                    Waited::Late => {
                        First::Asked(Running { target: first, started: now, future: Box::pin(sent.answer()) })
                    }
                }
            }
        };
        // The whole body is here: nobody waits for the client.
        let upload = UploadProgress::default();
        upload.done.set(true);
        // Boxed: rare, and as large as everything else together.
        let here: Asking<'_> = *asking;
        let mut asked = pin!(Box::pin(here.ask(&sending, begin, deadlines, &upload, finish)));
        let answered = poll_fn(|cx| {
            if let Poll::Ready(answered) = asked.as_mut().poll(cx) {
                return Poll::Ready(Some(answered));
            }
            front.poll_aside(cx).map(|()| None)
        });
        let answered = answered.await.ok_or(End::Abrupt)?;
        // The same target, as long as the route lives.
        Ok(answered.map(|(target, answer)| {
            let same = asking.route.targets.iter().find(|other| std::ptr::eq(*other, target));
            (same.unwrap_or(first), answer)
        }))
    }

    /// Takes the request out of the buffer, and lets others have what is not needed between requests.
    fn leave_behind(&mut self, head: &RequestHead) {
        let buffers = &self.worker.direct.buffers;
        if let Some(buffer) = &mut self.ahead {
            buffer.consume(head.length + head.body);
        }
        self.front.fetch_aside(&mut self.ahead, buffers);
        buffers.give_back_fields(std::mem::take(&mut self.fields));
    }
}

impl<T> Drop for Client<'_, T> {
    fn drop(&mut self) {
        let buffers = &self.worker.direct.buffers;
        if let Some(ahead) = self.ahead.take() {
            buffers.give_back(ahead);
        }
        if self.fields.capacity() > 0 {
            buffers.give_back_fields(std::mem::take(&mut self.fields));
        }
    }
}

/// What is asked, and since when.
#[derive(Clone, Copy)]
struct Asked<'a> {
    head: &'a RequestHead,
    id: Option<&'a HeaderValue>,
    /// See [`Plan::as_it_came`].
    as_it_came: bool,
    now: Instant,
    /// The same on the process clock.
    now_ms: u64,
}

enum Waited {
    Over(Result<(), Failed>),
    ClientGone,
    Late,
}
