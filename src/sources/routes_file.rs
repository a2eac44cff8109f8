//! The source `routes_file`: a watched file of route commands.
//!
//! Notifications of the kernel about the file's directory are only hints to look (they survive
//! neither network file systems nor every chain of symlinks), so the file is also read every few
//! seconds; what counts is whether its text differs. Looking at the directory and not at the file
//! is what makes a rename over it, and the swap of a symlinked directory beside it (as Kubernetes
//! and Nomad templates do), visible at once.
//!
//! A file that is gone, unreadable or suddenly empty says nothing about the services behind it: the
//! last good commands stay, and the trouble is reported. Emptiness is believed when a second look
//! confirms it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time;

use super::context::Context;
use super::look::Look;
use super::source::{RunningSource, Source, SourceError};
use super::task::SourceTask;
use super::update::Update;
use crate::catalog::command::CommandError;
use crate::catalog::command_list::{CommandList, CommandText};
use crate::catalog::source::SourceName;
use crate::config::Config;
use crate::metrics::Metrics;

pub(crate) const SOURCE: SourceName = "routes_file";

/// How long there must be no sign of a change before the file is read: a writer that pauses for
/// longer is taken for done.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest that signs of further changes put a look off.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How often the file is read without any sign.
const POLL: Duration = Duration::from_secs(5);
/// How long a changed file must stay the same to be believed.
const CONFIRM: Duration = Duration::from_millis(150);
/// The same for one that was emptied, or lost much.
const CONFIRM_EMPTY: Duration = Duration::from_secs(1);
/// How often a file may change while it is looked at, before that is reported.
const CONFIRM_MAX: usize = 20;
/// Limit for one read: a hung network file system must not stop the watch for good.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("is not UTF-8 text")]
    NotText,
    #[error("is being written")]
    Changing,
    #[error("no response from the file system within {READ_TIMEOUT:?}")]
    Timeout,
}

/// The source `routes_file`. It sends its commands after the first good read and whenever they
/// differ, and is synced after the first good read.
#[derive(Debug)]
pub(crate) struct RoutesFile;

impl Source for RoutesFile {
    fn name(&self) -> SourceName {
        SOURCE
    }

    fn is_on(&self, config: &Config) -> bool {
        config.routes_file.is_some()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let path = config.routes_file.clone().unwrap_or_default();
        Ok(Box::new(Running(spawn(path, context, POLL))))
    }

    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str> {
        present.restart_keys(next)
    }

    fn looks<'a>(&self, config: &'a Config) -> Vec<Look<'a>> {
        let path = config.routes_file.as_deref();
        path.map(|path| Look::CommandFile("routes_file", path))
            .into_iter()
            .collect()
    }
}

/// What the file holds is followed all the time; a reload changes nothing of that.
struct Running(#[allow(dead_code, reason = "held for its drop")] SourceTask);

impl RunningSource for Running {}

fn spawn(path: PathBuf, context: &Context, poll: Duration) -> SourceTask {
    let metrics = context.metrics.clone();
    // Shown before the first error: a series that begins with it never rises.
    metrics.control().registry_errors.entry("file").or_default();
    metrics
        .journal()
        .sources()
        .expect(SOURCE, Some(path.display().to_string()));
    let (commands, errors) = (CommandList::default(), Arc::from([]));
    let source = FileSource {
        path,
        metrics,
        updates: context.updates.clone(),
        now: context.now,
        text: None,
        commands,
        errors,
        trouble: None,
    };
    SourceTask::spawn(source.run(poll))
}

struct FileSource {
    path: PathBuf,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    now: fn() -> Instant,
    /// What the last good read gave.
    text: Option<CommandText>,
    commands: CommandList,
    errors: Arc<[CommandError]>,
    /// Present trouble, as logged.
    trouble: Option<String>,
}

impl FileSource {
    async fn run(mut self, poll: Duration) {
        let mut hints = Hints::new(&self.path);
        loop {
            hints.watch();
            if self.look().await.is_err() {
                return;
            }
            tokio::select! {
                () = hints.changed() => hints.settled().await,
                () = time::sleep(poll) => {}
                () = self.updates.closed() => return,
            }
            hints.forget();
        }
    }

    /// Reads the file and sends what is new; fails when nothing takes updates any more.
    async fn look(&mut self) -> Result<(), mpsc::error::SendError<Update>> {
        match self.read_confirmed().await {
            Ok(text) => {
                self.metrics.journal().source_read(SOURCE, "");
                if self.trouble.take().is_some() {
                    tracing::info!(path = %self.path.display(), "routes file can be read again");
                }
                self.take(text).await
            }
            Err(error) => {
                self.report(error.to_string());
                Ok(())
            }
        }
    }

    /// The present text. One that differs from what is known counts when a second reading agrees
    /// with it: many writers truncate before they write, and some write bit by bit. One that lost
    /// much is given more time to be filled again.
    async fn read_confirmed(&self) -> Result<String, ReadError> {
        let mut text = read_limited(&self.path).await?;
        let Some(known) = &self.text else {
            return Ok(text);
        };
        for _ in 0..CONFIRM_MAX {
            if known.text() == text {
                return Ok(text);
            }
            let before = std::mem::take(&mut text);
            time::sleep(if has_lost_much(known.text(), &before) {
                CONFIRM_EMPTY
            } else {
                CONFIRM
            })
            .await;
            text = read_limited(&self.path).await?;
            if text == before {
                return Ok(text);
            }
        }
        Err(ReadError::Changing)
    }

    async fn take(&mut self, text: String) -> Result<(), mpsc::error::SendError<Update>> {
        if self.text.as_ref().is_some_and(|known| known.text() == text) {
            return Ok(());
        }
        let first = self.text.is_none();
        let known = self.text.get_or_insert_default();
        known.replace(text);
        let commands: CommandList = known.commands().cloned().collect();
        let errors: Arc<[CommandError]> = known.errors().collect();
        // Only comments and blank lines may have changed.
        if !first && self.commands == commands && self.errors == errors {
            return Ok(());
        }
        // Which lines are wrong is logged where the commands are taken, as for every source.
        let path = self.path.display();
        tracing::info!(%path, commands = commands.len(), rejected = errors.len(), "routes file read");
        (self.commands, self.errors) = (commands.clone(), Arc::clone(&errors));
        self.updates
            .send(Update::Commands {
                source: SOURCE,
                commands,
                errors,
                seen_at: (self.now)(),
            })
            .await?;
        if first {
            self.updates.send(Update::Synced { source: SOURCE }).await?;
        }
        Ok(())
    }

    fn report(&mut self, reason: String) {
        *self
            .metrics
            .control()
            .registry_errors
            .entry("file")
            .or_default() += 1;
        self.metrics.journal().source_failed(
            SOURCE,
            "",
            &format!("{}: {reason}", self.path.display()),
        );
        if self.trouble.as_ref() != Some(&reason) {
            let kept = if self.text.is_some() {
                "its last commands stay in force"
            } else {
                "there are no commands yet"
            };
            tracing::warn!(path = %self.path.display(), reason, "routes file cannot be read; {kept}");
            self.trouble = Some(reason);
        }
    }
}

/// Whether a text of commands became empty, without a route, or less than half of what it was.
fn has_lost_much(before: &str, now: &str) -> bool {
    let has_routes = |text: &str| {
        text.lines()
            .any(|line| line.trim_start().starts_with("route add"))
    };
    now.len() < before.len() / 2 || (has_routes(before) && !has_routes(now))
}

async fn read_limited(path: &Path) -> Result<String, ReadError> {
    time::timeout(READ_TIMEOUT, read(path))
        .await
        .map_err(|_| ReadError::Timeout)?
}

async fn read(path: &Path) -> Result<String, ReadError> {
    // Before opening: to open a pipe waits for its writer.
    let before = tokio::fs::metadata(path).await?;
    if !before.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    let count = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await?;
    if count as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    // Half of a file is as good as a list of withdrawn routes.
    let after = tokio::fs::metadata(path).await?;
    if count as u64 != after.len()
        || before.len() != after.len()
        || before.modified().ok() != after.modified().ok()
    {
        return Err(ReadError::Changing);
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}

/// Signs that something in the file's directory changed.
struct Hints {
    directory: PathBuf,
    watcher: Option<RecommendedWatcher>,
    receiver: mpsc::Receiver<()>,
}

impl Hints {
    fn new(path: &Path) -> Self {
        // One place is enough: a second sign before the first is taken says nothing more.
        let (sender, receiver) = mpsc::channel(1);
        let notify = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(&event.kind)) {
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(notify)
            .inspect_err(
                |error| tracing::warn!(%error, "no file notifications; the routes file is polled"),
            )
            .ok();
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        Self {
            directory: parent.unwrap_or(Path::new(".")).to_owned(),
            watcher,
            receiver,
        }
    }

    /// Watches the directory. Repeated before each look, since a directory that was deleted and
    /// made again is another one; a directory that is not there is left to the poll.
    fn watch(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            let _ = watcher.watch(&self.directory, RecursiveMode::NonRecursive);
        }
    }

    /// Waits for a sign. Cancel safe.
    async fn changed(&mut self) {
        if self.receiver.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the signs have ended, for a limited time.
    async fn settled(&mut self) {
        let _ = time::timeout(SETTLE_MAX, async {
            while time::timeout(SETTLE, self.changed()).await.is_ok() {}
        })
        .await;
    }

    fn forget(&mut self) {
        while self.receiver.try_recv().is_ok() {}
    }
}

/// Our own reading makes events as well: to look at those would never end.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(access) => *access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::catalog::command::Command;

    const LIMIT: Duration = Duration::from_secs(20);
    /// So long that only a notification can explain a change seen within [`LIMIT`].
    const NEVER: Duration = Duration::from_secs(3600);

    struct Fixture {
        dir: TempDir,
        updates: mpsc::Receiver<Update>,
        metrics: Metrics,
        _task: SourceTask,
    }

    impl Fixture {
        fn start(name: &str, poll: Duration, prepare: impl FnOnce(&Path)) -> Self {
            let dir = TempDir::new().expect("a directory");
            prepare(dir.path());
            let (sender, updates) = mpsc::channel(8);
            let metrics = Metrics::default();
            let context = Context::telling(sender, metrics.clone());
            let task = spawn(dir.path().join(name), &context, poll);
            Self {
                dir,
                updates,
                metrics,
                _task: task,
            }
        }

        async fn next(&mut self) -> Update {
            time::timeout(LIMIT, self.updates.recv())
                .await
                .expect("an update in time")
                .expect("a running source")
        }

        /// The services that the next update adds, and its errors.
        async fn commands(&mut self) -> (String, usize) {
            match self.next().await {
                Update::Commands {
                    commands, errors, ..
                } => (services(&commands), errors.len()),
                other => panic!("{other:?}"),
            }
        }

        async fn errors_counted(&self, wanted: u64) {
            let counted = || {
                self.metrics
                    .control()
                    .registry_errors
                    .get("file")
                    .copied()
                    .unwrap_or(0)
            };
            let poll = async {
                while counted() < wanted {
                    time::sleep(Duration::from_millis(5)).await;
                }
            };
            time::timeout(LIMIT, poll)
                .await
                .expect("errors are counted");
        }
    }

    fn services(commands: &CommandList) -> String {
        let names: Vec<&str> = commands
            .iter()
            .map(|command| {
                if let Command::Add(add) = &**command {
                    &*add.service
                } else {
                    "-"
                }
            })
            .collect();
        names.join(" ")
    }

    fn add(service: &str) -> String {
        format!("route add {service} / http://10.0.0.1:80/\n")
    }

    #[tokio::test]
    async fn a_file_that_is_written_slowly_is_read_when_it_is_whole() {
        let mut fixture =
            Fixture::start("routes", NEVER, |dir| put(&dir.join("routes"), &add("old")));
        assert_eq!(fixture.commands().await, ("old".to_owned(), 0));
        assert!(matches!(fixture.next().await, Update::Synced { .. }));
        let mut file = fs::File::create(fixture.dir.path().join("routes")).expect("truncated");
        let mut longest_gap = Duration::ZERO;
        for service in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
            let before = std::time::Instant::now();
            // Longer together than one settle time, each shorter.
            time::sleep(SETTLE / 5).await;
            std::io::Write::write_all(&mut file, add(service).as_bytes()).expect("written");
            longest_gap = longest_gap.max(before.elapsed());
        }
        drop(file);
        let whole = ("a b c d e f g h i j".to_owned(), 0);
        let mut read = fixture.commands().await;
        // A machine that stopped the writer for longer than the settle time made a quiet moment of
        // its own.
        while read != whole && longest_gap >= SETTLE / 2 {
            read = fixture.commands().await;
        }
        assert_eq!(read, whole);
    }

    fn put(path: &Path, text: &str) {
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).expect("written");
        fs::rename(fresh, path).expect("renamed");
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_seen_without_polling() {
        let mut source = Fixture::start("routes", NEVER, |dir| {
            put(&dir.join("routes"), &(add("a") + "nonsense"))
        });
        assert_eq!(source.commands().await, ("a".to_owned(), 1));
        assert!(matches!(
            source.next().await,
            Update::Synced { source: SOURCE }
        ));
        let path = source.dir.path().join("routes");
        put(&path, &(add("a") + &add("b")));
        assert_eq!(source.commands().await, ("a b".to_owned(), 0));
        // Nothing but a comment: not sent, so the next update is the one after.
        put(&path, &(add("a") + "# comment\n" + &add("b")));
        put(&path, &add("c"));
        assert_eq!(source.commands().await, ("c".to_owned(), 0));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_swap_of_a_symlinked_directory_is_seen_without_polling() {
        let version = |dir: &Path, name: &str, service: &str| {
            fs::create_dir(dir.join(name)).expect("made");
            fs::write(dir.join(name).join("routes"), add(service)).expect("written");
            std::os::unix::fs::symlink(name, dir.join("..data_tmp")).expect("linked");
            fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("renamed");
        };
        let mut source = Fixture::start("routes", NEVER, |dir| {
            version(dir, "v1", "a");
            std::os::unix::fs::symlink("..data/routes", dir.join("routes")).expect("linked");
        });
        assert_eq!(source.commands().await.0, "a");
        assert!(matches!(source.next().await, Update::Synced { .. }));
        version(source.dir.path(), "v2", "b");
        assert_eq!(source.commands().await.0, "b");
    }

    #[tokio::test]
    async fn a_lost_file_keeps_its_commands_and_is_counted() {
        let poll = Duration::from_millis(20);
        let mut source = Fixture::start("routes", poll, |dir| put(&dir.join("routes"), &add("a")));
        assert_eq!(
            source.metrics.control().registry_errors.get("file"),
            Some(&0),
            "shown before the first error"
        );
        assert_eq!(source.commands().await.0, "a");
        assert!(matches!(source.next().await, Update::Synced { .. }));
        let path = source.dir.path().join("routes");
        fs::remove_file(&path).expect("removed");
        source.errors_counted(1).await;
        fs::create_dir(&path).expect("made");
        source.errors_counted(3).await;
        fs::remove_dir(&path).expect("removed");
        fs::write(path.with_extension("new"), [0xff, 0xfe]).expect("written");
        fs::rename(path.with_extension("new"), &path).expect("renamed");
        source.errors_counted(6).await;
        assert!(
            source.updates.try_recv().is_err(),
            "nothing may be sent while the file is unreadable"
        );
        put(&path, &add("b"));
        assert_eq!(source.commands().await.0, "b");
    }

    #[tokio::test]
    async fn not_synced_before_the_file_is_there() {
        let mut source = Fixture::start("routes", Duration::from_millis(20), |_| {});
        source.errors_counted(2).await;
        assert!(source.updates.try_recv().is_err());
        put(&source.dir.path().join("routes"), &add("a"));
        assert_eq!(source.commands().await.0, "a");
        assert!(matches!(source.next().await, Update::Synced { .. }));
    }

    #[tokio::test]
    async fn a_writer_that_pauses_is_waited_for() {
        // Without notifications, as on a network file system: the poll may fall into any moment.
        let poll = Duration::from_millis(10);
        let whole: String = ["a", "b", "c", "d"].map(add).concat();
        let mut source = Fixture::start("routes", poll, |dir| put(&dir.join("routes"), &whole));
        assert_eq!(source.commands().await.0, "a b c d");
        assert!(matches!(source.next().await, Update::Synced { .. }));
        let path = source.dir.path().join("routes");
        let next = whole.replace("10.0.0.1", "10.0.0.2");
        for cut in [0, 1, add("a").len(), add("a").len() + 7, next.len() - 9] {
            fs::write(&path, &next[..cut]).expect("written");
            let pause = if cut < next.len() / 2 {
                CONFIRM_EMPTY
            } else {
                CONFIRM
            } / 3;
            time::sleep(pause).await;
            fs::write(&path, &next).expect("written");
            time::sleep(CONFIRM_EMPTY + CONFIRM * 2).await;
            let mut seen = Vec::new();
            while let Ok(update) = source.updates.try_recv() {
                seen.push(update);
            }
            for update in &seen {
                let Update::Commands {
                    commands, errors, ..
                } = update
                else {
                    panic!("{update:?}")
                };
                assert_eq!(
                    (services(commands).as_str(), errors.len()),
                    ("a b c d", 0),
                    "cut at {cut}"
                );
            }
            assert_eq!(
                seen.len(),
                usize::from(cut == 0),
                "cut at {cut}: the same text is nothing new"
            );
        }
    }

    #[tokio::test]
    async fn emptiness_is_believed_when_confirmed() {
        let mut source = Fixture::start("routes", NEVER, |dir| put(&dir.join("routes"), &add("a")));
        assert_eq!(source.commands().await.0, "a");
        assert!(matches!(source.next().await, Update::Synced { .. }));
        put(&source.dir.path().join("routes"), "\n");
        assert_eq!(source.commands().await, (String::new(), 0));
    }

    #[test]
    fn reading_is_no_change() {
        assert!(!is_change(&EventKind::Access(AccessKind::Open(
            AccessMode::Any
        ))));
        assert!(!is_change(&EventKind::Access(AccessKind::Close(
            AccessMode::Read
        ))));
        assert!(is_change(&EventKind::Access(AccessKind::Close(
            AccessMode::Write
        ))));
        assert!(is_change(&EventKind::Remove(
            notify::event::RemoveKind::File
        )));
    }
}
