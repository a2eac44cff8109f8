//! Certificates named in the configuration: they exist, parse, fit their key, and are valid for a
//! while yet.

use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Severity;
use super::reading::Files;
use crate::config::{AcmeConfig, AcmeStore, CertificateSource, Config, hmac_key};
use crate::sources::Pem;

/// A certificate that ends within this time is warned about, in seconds.
const SOON: i64 = 30 * 86_400;
/// Most pairs looked at in one folder.
const PAIRS_MAX: usize = 10_000;

/// Stands for the file where a certificate is in the configuration itself.
const INLINE: &str = "configuration";

/// Checks every certificate, key and CA the configuration names, but for those of sources. `now` in
/// seconds since 1970.
pub(crate) fn check(config: &Config, now: i64, files: &mut Files) {
    authorities(
        files,
        "proxy.upstream_ca_file",
        config.proxy.upstream_ca_file.as_deref(),
        now,
    );
    client_authorities(
        files,
        "metrics.client_ca_file",
        config.metrics.client_ca_file.as_deref(),
        now,
    );
    for (name, certificates) in &config.certificates {
        let key = |field: &str| format!("certificates.{name}.{field}");
        client_authorities(
            files,
            &key("client_ca_file"),
            certificates.client_ca_file.as_deref(),
            now,
        );
        match &certificates.source {
            // Nothing to look at: that it is missing is a mistake of the configuration.
            CertificateSource::File {
                cert_file: path, ..
            }
            | CertificateSource::Path { path }
                if path.as_os_str().is_empty() => {}
            CertificateSource::File {
                cert_file,
                key_file,
            } => {
                pair(
                    files,
                    &key("cert_file"),
                    cert_file,
                    &key("key_file"),
                    key_file,
                    now,
                );
            }
            CertificateSource::Path { path } => folder(files, &key("path"), path, now),
            // Nothing here to look at; whether the server responds shows when it is read.
            CertificateSource::Http { .. }
            | CertificateSource::Consul { .. }
            | CertificateSource::Vault { .. }
            | CertificateSource::VaultPki { .. } => {}
            CertificateSource::Acme(acme) => acme_files(files, &key, acme, now),
        }
    }
}

/// What ordering certificates reads from files.
fn acme_files(files: &mut Files, key: &dyn Fn(&str) -> String, acme: &AcmeConfig, now: i64) {
    authorities(files, &key("ca_file"), acme.ca_file.as_deref(), now);
    if let Some(path) = &acme.passphrase_file
        && let Some(text) = files.read(&key("key_passphrase_file"), path)
        && text.trim_ascii().is_empty()
    {
        let advice = "write a passphrase into it";
        files.error(&key("key_passphrase_file"), path, "is empty", advice);
    }
    if let Some((_, path)) = &acme.external_account
        && let Some(text) = files.read(&key("eab_hmac_file"), path)
        && hmac_key(&text).is_none()
    {
        let advice = "write the HMAC key as the operator of the server hands it out";
        files.error(&key("eab_hmac_file"), path, "is not base64url", advice);
    }
    if let Some(path) = &acme.dns_hook {
        files.read(&key("dns"), path);
    }
    if let AcmeStore::Folder(path) = &acme.store
        && !path.as_os_str().is_empty()
        && !path.is_dir()
    {
        let advice = "make it, so that lb may write to it and nothing else may read it";
        files.error(&key("folder"), path, "is not a folder", advice);
    }
}

/// CAs of a source's server.
pub(crate) fn source_authorities(files: &mut Files, key: &str, pem: Pem<'_>, now: i64) {
    match pem {
        Pem::File(path) => authorities(files, key, Some(path), now),
        Pem::Text(text) => authorities_in(files, key, Path::new(INLINE), text.as_bytes(), now),
    }
}

/// The client certificate of a source, either half of which is in a file or in the configuration
/// itself.
pub(crate) fn client_pair(
    files: &mut Files,
    cert: Option<(&str, Pem<'_>)>,
    key: Option<(&str, Pem<'_>)>,
    now: i64,
) {
    let inline = Path::new(INLINE);
    let (chain, cert_name) = match cert {
        Some((key, Pem::File(path))) => {
            let chain = chain(files, key, path, now);
            (chain, path.display().to_string())
        }
        Some((key, Pem::Text(text))) => {
            let chain = chain_in(files, key, inline, text.as_bytes(), now);
            (chain, key.to_owned())
        }
        None => (Vec::new(), String::new()),
    };
    let (key_key, key_place, private) = match key {
        Some((key, Pem::File(path))) => (key, path, private_key(files, key, path)),
        Some((key, Pem::Text(text))) => {
            let private = private_key_in(files, key, inline, text.as_bytes());
            (key, inline, private)
        }
        None => return,
    };
    fits(files, (chain, &cert_name), private, (key_key, key_place));
}

/// `X-cert.pem` with `X-key.pem`, or `X.pem` with both.
fn folder(files: &mut Files, key: &str, path: &Path, now: i64) {
    let pairs = pairs_of(&files.folder(key, path));
    if pairs.is_empty() && path.is_dir() {
        files.error(
            key,
            path,
            "holds no certificate",
            "put X-cert.pem and X-key.pem, or X.pem with both, into it",
        );
    }
    for (cert_file, key_file) in pairs.iter().take(PAIRS_MAX) {
        pair(files, key, cert_file, key, key_file, now);
    }
}

fn pairs_of(paths: &[PathBuf]) -> Vec<(PathBuf, PathBuf)> {
    let mut pairs = Vec::new();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(stem) = name.strip_suffix("-cert.pem") {
            pairs.push((path.clone(), path.with_file_name(format!("{stem}-key.pem"))));
        } else if name.ends_with(".pem") && !name.ends_with("-key.pem") {
            pairs.push((path.clone(), path.clone()));
        }
    }
    pairs
}

fn pair(
    files: &mut Files,
    cert_key: &str,
    cert_file: &Path,
    key_key: &str,
    key_file: &Path,
    now: i64,
) {
    let chain = chain(files, cert_key, cert_file, now);
    let key = private_key(files, key_key, key_file);
    fits(
        files,
        (chain, &cert_file.display().to_string()),
        key,
        (key_key, key_file),
    );
}

/// Whether certificate and key belong together, if both were found.
fn fits(
    files: &mut Files,
    (chain, cert): (Vec<CertificateDer<'static>>, &str),
    key: Option<PrivateKeyDer<'static>>,
    (key_key, key_place): (&str, &Path),
) {
    let Some(key) = key.filter(|_| !chain.is_empty()) else {
        return;
    };
    match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let problem = format!("is not the key of {cert}");
            files.error(
                key_key,
                key_place,
                &problem,
                "certificate and key have to be made together",
            );
        }
        Err(error) => files.error(
            key_key,
            key_place,
            &format!("cannot be used: {error}"),
            "make a new pair",
        ),
    }
}

fn private_key(files: &mut Files, key: &str, path: &Path) -> Option<PrivateKeyDer<'static>> {
    files.secret(key, path);
    let bytes = files.read(key, path)?;
    private_key_in(files, key, path, &bytes)
}

fn private_key_in(
    files: &mut Files,
    key: &str,
    place: &Path,
    bytes: &[u8],
) -> Option<PrivateKeyDer<'static>> {
    let found = PrivateKeyDer::from_pem_slice(bytes).ok();
    if found.is_none() {
        let advice = "give the private key as PEM; encrypted keys cannot be used";
        files.error(key, place, "holds no private key", advice);
    }
    found
}

fn chain(files: &mut Files, key: &str, path: &Path, now: i64) -> Vec<CertificateDer<'static>> {
    let Some(bytes) = files.read(key, path) else {
        return Vec::new();
    };
    chain_in(files, key, path, &bytes, now)
}

fn chain_in(
    files: &mut Files,
    key: &str,
    path: &Path,
    bytes: &[u8],
    now: i64,
) -> Vec<CertificateDer<'static>> {
    let chain = certificates(bytes);
    if chain.is_empty() {
        files.error(
            key,
            path,
            "holds no certificate",
            "name a PEM file (BEGIN CERTIFICATE)",
        );
    }
    // The leaf alone: an old intermediate may stand there for old clients.
    for der in chain.iter().take(1) {
        dates(files, key, path, der, now);
    }
    chain
}

/// CAs of client certificates: a file, or a folder of them.
fn client_authorities(files: &mut Files, key: &str, path: Option<&Path>, now: i64) {
    match path {
        Some(folder) if folder.is_dir() => {
            let found: Vec<PathBuf> = files
                .folder(key, folder)
                .into_iter()
                .filter(|path| is_pem(path))
                .collect();
            if found.is_empty() {
                files.error(
                    key,
                    folder,
                    "holds no CA certificate",
                    "put *.pem files into it",
                );
            }
            for path in &found {
                authorities(files, key, Some(path), now);
            }
        }
        path => authorities(files, key, path, now),
    }
}

fn is_pem(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pem")
}

fn authorities(files: &mut Files, key: &str, path: Option<&Path>, now: i64) {
    let Some((path, bytes)) = path.and_then(|path| Some((path, files.read(key, path)?))) else {
        return;
    };
    authorities_in(files, key, path, &bytes, now);
}

/// A folder of CAs. A file without any is passed over at run time, as long as there are others.
pub(crate) fn authorities_below(files: &mut Files, key: &str, folder: &Path, now: i64) {
    let before = files.findings.len();
    let mut some = false;
    for path in files.tree(key, folder) {
        let Some(bytes) = files.read(key, &path) else {
            continue;
        };
        if certificates(&bytes).is_empty() {
            files.warning(
                key,
                &path,
                "holds no CA certificate and is passed over",
                "remove it from the folder of CAs",
            );
        } else {
            some = true;
            authorities_in(files, key, &path, &bytes, now);
        }
    }
    if !some
        && files.findings[before..]
            .iter()
            .all(|finding| finding.severity != Severity::Error)
    {
        files.error(
            key,
            folder,
            "holds no file with a CA certificate",
            "name a folder of PEM files (BEGIN CERTIFICATE)",
        );
    }
}

fn authorities_in(files: &mut Files, key: &str, path: &Path, bytes: &[u8], now: i64) {
    let found = certificates(bytes);
    if found.is_empty() {
        files.error(
            key,
            path,
            "holds no CA certificate",
            "name a PEM file (BEGIN CERTIFICATE)",
        );
    }
    let mut roots = rustls::RootCertStore::empty();
    for der in &found {
        dates(files, key, path, der, now);
        if let Err(error) = roots.add(der.clone()) {
            files.error(
                key,
                path,
                &format!("holds a certificate that cannot be a CA: {error}"),
                "name the CA's own",
            );
        }
    }
}

fn certificates(bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bytes)
        .map_while(Result::ok)
        .collect()
}

fn dates(files: &mut Files, key: &str, path: &Path, der: &CertificateDer<'_>, now: i64) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return files.error(
            key,
            path,
            "holds a certificate that cannot be read",
            "make a new one",
        );
    };
    let (from, until) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let subject = certificate.subject().to_string();
    if now < from {
        let advice = "check the clock of this machine and of the CA's";
        files.error(key, path, &format!("is not valid yet ({subject})"), advice);
    } else if now >= until {
        files.error(
            key,
            path,
            &format!("ended {} ago ({subject})", days(now - until)),
            "renew it",
        );
    } else if until - now < SOON {
        files.warning(
            key,
            path,
            &format!("ends in {} ({subject})", days(until - now)),
            "renew it",
        );
    }
}

fn days(seconds: i64) -> String {
    match seconds / 86_400 {
        0 => format!("{} hours", seconds / 3_600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::super::Severity;
    use super::*;
    use crate::config::{CertificateConfig, ConsulConfig};

    /// 2030-01-01 in seconds since 1970.
    const NOW: i64 = 1_893_456_000;

    fn make(until: (i32, u8, u8)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2029, 1, 1);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn found(
        source: CertificateSource,
        client_ca_file: Option<PathBuf>,
    ) -> Vec<(Severity, String)> {
        let mut config = Config {
            consul: None,
            ..Config::default()
        };
        let certificates = CertificateConfig {
            source,
            client_ca_file,
            ..CertificateConfig::default()
        };
        config.certificates.insert("main".to_owned(), certificates);
        let mut files = Files::default();
        check(&config, NOW, &mut files);
        files
            .findings
            .into_iter()
            .map(|finding| (finding.severity, finding.problem))
            .collect()
    }

    #[test]
    fn good_pairs_pass_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            #[cfg(unix)]
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
            path
        };
        let (good, key) = make((2031, 1, 1));
        let (soon, soon_key) = make((2030, 1, 11));
        let (old, old_key) = make((2029, 12, 1));
        let file = |cert: &PathBuf, key: &PathBuf| CertificateSource::File {
            cert_file: cert.clone(),
            key_file: key.clone(),
        };
        let cert_file = write("good.pem", &good);
        let key_file = write("good.key", &key);
        let both = write("both.pem", &format!("{good}{key}"));
        let soon_file = write("soon.pem", &format!("{soon}{soon_key}"));
        let old_file = write("old.pem", &format!("{old}{old_key}"));
        let junk = write("junk.pem", "junk");
        let missing = dir.path().join("missing.pem");
        let cases = [
            (file(&cert_file, &key_file), None),
            (file(&both, &both), None),
            (
                file(&cert_file, &old_file),
                Some((Severity::Error, "is not the key of")),
            ),
            (
                file(&cert_file, &cert_file),
                Some((Severity::Error, "holds no private key")),
            ),
            (
                file(&junk, &key_file),
                Some((Severity::Error, "holds no certificate")),
            ),
            (
                file(&missing, &key_file),
                Some((Severity::Error, "cannot be read")),
            ),
            (
                file(&soon_file, &soon_file),
                Some((Severity::Warning, "ends in 10 days")),
            ),
            (
                file(&old_file, &old_file),
                Some((Severity::Error, "ended 31 days ago")),
            ),
        ];
        for (source, expected) in cases {
            let found = found(source.clone(), None);
            match expected {
                None => assert_eq!(found, [], "{source:?}"),
                Some((severity, part)) => {
                    assert_eq!(found.len(), 1, "{source:?} {found:?}");
                    assert!(
                        found[0].0 == severity && found[0].1.contains(part),
                        "{found:?}"
                    );
                }
            }
        }
        assert!(
            found(file(&both, &both), Some(junk))[0]
                .1
                .contains("holds no CA certificate")
        );
        assert_eq!(found(file(&both, &both), Some(cert_file)), []);
    }

    #[test]
    fn folders_are_searched_for_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = CertificateSource::Path {
            path: dir.path().to_owned(),
        };
        assert!(
            found(folder.clone(), None)[0]
                .1
                .contains("holds no certificate")
        );
        let (cert, key) = make((2031, 1, 1));
        fs::write(dir.path().join("a-cert.pem"), &cert).unwrap();
        assert!(found(folder.clone(), None)[0].1.contains("cannot be read"));
        fs::write(dir.path().join("a-key.pem"), &key).unwrap();
        let found = found(folder, None);
        assert!(
            found
                .iter()
                .all(|(severity, _)| *severity == Severity::Warning),
            "{found:?}"
        );
    }

    #[test]
    fn certificates_in_the_configuration_itself_are_checked_as_files_are() {
        let ((good, key), (old, _)) = (make((2031, 1, 1)), make((2029, 6, 1)));
        let found = |cert: Option<&str>, key: Option<&str>, ca: Option<&str>| {
            let consul = ConsulConfig {
                cert_pem: cert.map(str::to_owned),
                key_pem: key.map(Into::into),
                ca_pem: ca.map(str::to_owned),
                ..ConsulConfig::default()
            };
            let config = Config {
                consul: Some(consul),
                ..Config::default()
            };
            let shown = crate::check::files::check_files(&config, NOW)
                .into_iter()
                .map(|it| format!("{} {} {}", it.file, it.subject, it.problem));
            shown.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(found(Some(&good), Some(&key), Some(&good)), "");
        assert!(found(Some(&old), None, None).starts_with("configuration consul.cert_pem ended"));
        assert!(found(None, None, Some(&old)).contains("consul.ca_pem ended"));
        assert!(found(None, None, Some("x")).contains("consul.ca_pem holds no CA certificate"));
        assert!(
            found(Some(&good), Some("x"), None).contains("consul.key_pem holds no private key")
        );
        let foreign = make((2031, 1, 1)).1;
        assert!(
            found(Some(&good), Some(&foreign), None).contains("is not the key of consul.cert_pem")
        );
    }
}
