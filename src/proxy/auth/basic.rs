//! Name and password in the `Authorization` field (RFC 7617), looked up in a file that may change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::proxy::auth::admission::Admission;
use crate::proxy::auth::error::AuthError;
use crate::proxy::auth::hash_permits::HashPermits;
use crate::proxy::auth::htpasswd::Users;
use crate::proxy::auth::verified::Verified;

/// Longest name and password, together and decoded. Some hashes take time in proportion to it.
const CREDENTIALS_MAX: usize = 1024;
/// How long ago a file must have been changed to be taken for whole.
const QUIET: Duration = Duration::from_millis(250);
/// Largest file, in bytes.
const FILE_MAX: u64 = 16 << 20;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A scheme of `[auth.NAME]` with a file of users.
#[derive(Debug)]
pub struct Basic {
    name: String,
    file: PathBuf,
    realm: String,
    refresh: Duration,
    challenge: HeaderValue,
    users: ArcSwap<Users>,
    verified: Verified,
    looked: Mutex<Looked>,
}

/// The last look at the file.
#[derive(Debug)]
struct Looked {
    at: Instant,
    stamp: Option<SystemTime>,
    /// To be read at the next look, whatever `refresh` says: it could not be read, or was being
    /// written.
    pending: Option<Pending>,
}

/// Why a file is read again soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// It could not be read.
    Unreadable,
    /// It was changed a moment ago, or all users were gone: its writer may not be done.
    Unfinished,
}

impl Basic {
    /// Reads the file. `realm` is such that it may stand between quotes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(
        name: &str,
        file: &Path,
        realm: &str,
        refresh: Duration,
    ) -> Result<Self, AuthError> {
        let stamp = stamp(file);
        let failed = |source| AuthError::File {
            name: name.to_owned(),
            path: file.to_owned(),
            source,
        };
        let users = read(name, file).map_err(failed)?;
        Ok(Self::with(name, file, realm, refresh, users, stamp))
    }

    /// The same; a file that cannot be read lets no user in, and is read as soon as it can be.
    pub(super) fn open(name: &str, file: &Path, realm: &str, refresh: Duration) -> Self {
        let stamp = stamp(file);
        match read(name, file) {
            Ok(users) => Self::with(name, file, realm, refresh, users, stamp),
            Err(error) => {
                tracing::error!(scheme = name, file = %file.display(), %error, "the file of users cannot be read: no user is let in until it can");
                Self::with(name, file, realm, refresh, Users::default(), None)
            }
        }
    }

    fn with(
        name: &str,
        file: &Path,
        realm: &str,
        refresh: Duration,
        users: Users,
        stamp: Option<SystemTime>,
    ) -> Self {
        let challenge = format!("Basic realm=\"{realm}\"");
        Self {
            name: name.to_owned(),
            file: file.to_owned(),
            realm: realm.to_owned(),
            refresh,
            challenge: HeaderValue::try_from(challenge)
                .unwrap_or(HeaderValue::from_static("Basic realm=\"lb\"")),
            users: ArcSwap::from_pointee(users),
            verified: Verified::default(),
            looked: Mutex::new(Looked {
                at: Instant::now(),
                stamp,
                pending: stamp.is_none().then_some(Pending::Unreadable),
            }),
        }
    }

    /// Whether it was made from these settings.
    pub(super) fn is_of(&self, file: &Path, realm: &str, refresh: Duration) -> bool {
        self.file == file && self.realm == realm && self.refresh == refresh
    }

    /// Reads the file again if its time stamp is another one than at the last look, which was
    /// `refresh` ago.
    pub(super) fn refresh(&self, now: Instant) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due =
            !self.refresh.is_zero() && now.saturating_duration_since(looked.at) >= self.refresh;
        if !due && looked.pending.is_none() {
            return;
        }
        looked.at = now;
        let found = stamp(&self.file);
        // A file whose time cannot be told is read each time.
        if looked.pending.is_some() || found.is_none() || found != looked.stamp {
            self.take_over(&mut looked, found);
        }
    }

    /// Reads the file whatever its time stamp is.
    pub(super) fn read_again(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_over(&mut looked, stamp(&self.file));
    }

    fn take_over(&self, looked: &mut Looked, stamp: Option<SystemTime>) {
        let confirmed = looked.pending == Some(Pending::Unfinished);
        let age = stamp.and_then(|stamp| SystemTime::now().duration_since(stamp).ok());
        if !confirmed && age.is_some_and(|age| age < QUIET) {
            looked.pending = Some(Pending::Unfinished);
            return;
        }
        // Taken before the file is read: what is written meanwhile is seen at the next look.
        looked.stamp = stamp;
        looked.pending = None;
        match read(&self.name, &self.file) {
            Ok(users) if users == **self.users.load() => {}
            // Many writers truncate before they write.
            Ok(users) if users.len() == 0 && !confirmed => {
                looked.pending = Some(Pending::Unfinished)
            }
            Ok(users) => {
                tracing::info!(scheme = self.name, users = users.len(), "users read again");
                self.users.store(Arc::new(users));
            }
            // An operator who takes the file away wants no user let in.
            Err(error) => {
                looked.stamp = None;
                looked.pending = Some(Pending::Unreadable);
                if self.users.load().len() > 0 {
                    tracing::error!(scheme = self.name, file = %self.file.display(), %error, "the file of users cannot be read: no user is let in until it can");
                    self.users.store(Arc::default());
                }
            }
        }
    }

    /// Decides whether a request with these fields may pass. Cancel safe: what is being computed
    /// then is finished, and nothing waits for it.
    pub(super) async fn admit(&self, headers: &HeaderMap, hash_permits: &HashPermits) -> Admission {
        let refused = || Admission::Refused(self.challenge.clone());
        let verdict = |good: bool| {
            if good {
                Admission::Granted(None)
            } else {
                refused()
            }
        };
        let Some(credentials) = Credentials::of(headers) else {
            return refused();
        };
        let users = self.users.load_full();
        let Some((stored, truly)) = users.find(&credentials.user) else {
            return refused();
        };
        if !stored.is_slow() {
            return verdict(stored.matches(credentials.password.as_bytes()) && truly);
        }
        let (user, password) = (credentials.user.as_bytes(), credentials.password.as_bytes());
        let key = self.verified.key(user, password, stored.text().as_bytes());
        if let Some(known) = self.verified.recall(&key) {
            return verdict(known);
        }
        let Some(turn) = hash_permits.acquire().await else {
            return Admission::Busy;
        };
        // Another connection of the same client may have sent the same credentials meanwhile.
        if let Some(known) = self.verified.recall(&key) {
            return verdict(known);
        }
        let stored = stored.clone();
        let computed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            stored.matches(credentials.password.as_bytes())
        });
        // A thread that panicked found nothing out.
        let Ok(matches) = computed.await else {
            return refused();
        };
        let good = matches && truly;
        self.verified.note(key, good);
        verdict(good)
    }
}

/// What a client says of itself.
struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (scheme, text) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let text = text.trim();
        if !scheme.eq_ignore_ascii_case("basic") || text.len() > CREDENTIALS_MAX * 4 / 3 + 4 {
            return None;
        }
        let decoded = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

fn stamp(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()
}

fn read(name: &str, file: &Path) -> io::Result<Users> {
    if std::fs::metadata(file)?.len() > FILE_MAX {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            FILE_MAX >> 20
        )));
    }
    let bytes = std::fs::read(file)?;
    let (users, bad) = Users::parse(&String::from_utf8_lossy(&bytes));
    for line in bad {
        tracing::warn!(scheme = name, file = %file.display(), problem = %line, "a line of the users' file is passed over");
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(header: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
        headers
    }

    fn with(user: &str, password: &str) -> HeaderMap {
        basic(&format!(
            "Basic {}",
            BASE64.encode(format!("{user}:{password}"))
        ))
    }

    #[test]
    fn credentials_are_read_as_browsers_write_them() {
        let read = |header: &str| Credentials::of(&basic(header)).map(|it| (it.user, it.password));
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(read("Basic YTpi"), pair("a", "b"));
        assert_eq!(read("bASIC  YTpi "), pair("a", "b"));
        assert_eq!(read("Basic YTpiOmM="), pair("a", "b:c"));
        assert_eq!(read("Basic Og=="), pair("", ""));
        for header in [
            "",
            "Basic",
            "Basic !",
            "Basic YWI=",
            "Bearer YTpi",
            "Basic /w==",
        ] {
            assert_eq!(read(header), None, "{header}");
        }
        let long = BASE64.encode(format!("a:{}", "x".repeat(2 * CREDENTIALS_MAX)));
        assert_eq!(read(&format!("Basic {long}")), None);
        assert_eq!(Credentials::of(&HeaderMap::new()).map(|it| it.user), None);
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    #[test]
    fn the_right_ones_get_in_and_others_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        std::fs::write(
            &file,
            format!("slow:{}\nfast:pw\n", bcrypt::hash("pw", 4).unwrap()),
        )
        .unwrap();
        let scheme = Basic::load("main", &file, "the shop", Duration::from_secs(1)).unwrap();
        let hash_permits = HashPermits::default();
        let asked = Admission::Refused(HeaderValue::from_static("Basic realm=\"the shop\""));
        runtime().block_on(async {
            // Twice: computed, then remembered.
            for _ in 0..2 {
                assert_eq!(
                    scheme.admit(&with("slow", "pw"), &hash_permits).await,
                    Admission::Granted(None)
                );
                assert_eq!(
                    scheme.admit(&with("fast", "pw"), &hash_permits).await,
                    Admission::Granted(None)
                );
                // The decoy has the password `pw` too, and that lets no user in.
                for (user, password) in [("slow", "no"), ("fast", "no"), ("nobody", "pw"), ("", "")]
                {
                    assert_eq!(
                        scheme.admit(&with(user, password), &hash_permits).await,
                        asked,
                        "{user}"
                    );
                }
                assert_eq!(scheme.admit(&HeaderMap::new(), &hash_permits).await, asked);
            }
        });
    }

    #[test]
    fn a_changed_file_counts_after_a_look_and_a_vanished_one_lets_no_user_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        let write = |text: &str, seconds: u64| {
            std::fs::write(&file, text).unwrap();
            let stamp = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            std::fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_modified(stamp)
                .unwrap();
        };
        write("a:one", 1000);
        let scheme = Basic::load("main", &file, "r", Duration::from_secs(5)).unwrap();
        let hash_permits = HashPermits::default();
        let gets_in = |user: &str, password: &str| {
            runtime().block_on(scheme.admit(&with(user, password), &hash_permits))
                == Admission::Granted(None)
        };
        let start = Instant::now();
        let look = |seconds: u64| scheme.refresh(start + Duration::from_secs(seconds));
        assert!(gets_in("a", "one"));
        // An older time stamp is another one, too.
        write("a:two", 500);
        look(4);
        assert!(gets_in("a", "one"), "not looked at yet");
        look(6);
        assert!(gets_in("a", "two") && !gets_in("a", "one"));
        write("a:three", 500);
        look(12);
        assert!(gets_in("a", "two"), "the same time stamp");
        scheme.read_again();
        assert!(gets_in("a", "three"));
        std::fs::remove_file(&file).unwrap();
        look(18);
        assert!(!gets_in("a", "three"));
        write("a:three", 500);
        look(24);
        assert!(
            gets_in("a", "three"),
            "it is back, with the time stamp it had"
        );
    }

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        let age = |seconds: u64| {
            let stamp = SystemTime::now() - Duration::from_secs(seconds);
            std::fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_modified(stamp)
                .unwrap();
        };
        std::fs::write(&file, "a:one\nb:two\n").unwrap();
        // Looked at when it is due, and where that is never, after a reload.
        for refresh in [Duration::from_secs(5), Duration::ZERO] {
            let scheme = Basic::load("main", &file, "r", refresh).unwrap();
            let users = || scheme.users.load().len();
            let look = |seconds: u64| scheme.refresh(Instant::now() + Duration::from_secs(seconds));
            std::fs::write(&file, "a:one\n").unwrap();
            scheme.read_again();
            assert_eq!(users(), 2, "changed a moment ago");
            look(1);
            assert_eq!(users(), 1, "the second look counts");
            // Emptied some time ago: believed by the second look.
            std::fs::write(&file, "").unwrap();
            age(100);
            scheme.read_again();
            assert_eq!(users(), 1);
            look(2);
            assert_eq!(users(), 0);
            std::fs::write(&file, "a:one\nb:two\n").unwrap();
            age(50);
            scheme.read_again();
            assert_eq!(users(), 2, "and a whole one at once");
        }
    }

    #[test]
    fn a_file_that_is_missing_at_the_start_lets_people_in_as_soon_as_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        for refresh in [Duration::from_secs(5), Duration::ZERO] {
            let scheme = Basic::open("main", &file, "r", refresh);
            let gets_in = || {
                let (headers, hash_permits) = (with("a", "one"), HashPermits::default());
                runtime().block_on(scheme.admit(&headers, &hash_permits))
                    == Admission::Granted(None)
            };
            assert!(!gets_in());
            std::fs::write(&file, "a:one\n").unwrap();
            scheme.refresh(Instant::now());
            scheme.refresh(Instant::now());
            assert!(gets_in(), "{refresh:?}");
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn without_a_refresh_the_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        std::fs::write(&file, "a:one").unwrap();
        let scheme = Basic::load("main", &file, "r", Duration::ZERO).unwrap();
        std::fs::remove_file(&file).unwrap();
        scheme.refresh(Instant::now() + Duration::from_secs(1000));
        assert_eq!(
            runtime().block_on(scheme.admit(&with("a", "one"), &HashPermits::default())),
            Admission::Granted(None)
        );
        assert!(
            Basic::load("main", &file, "r", Duration::ZERO)
                .unwrap_err()
                .to_string()
                .contains("auth.main.file")
        );
    }
}
