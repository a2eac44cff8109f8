//! The proxies: their names, where the program of each is found, and its version.

use std::path::PathBuf;
use std::process::Command;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proxy {
    Lb,
    /// `lb` with the JSON access log on.
    LbLog,
    /// `lb` with two workers, on two cores.
    LbTwo,
    /// `lb` with one setting more, or with other requests, beside a plain one.
    LbVaried,
    Floor,
    Haproxy,
    Nginx,
    Envoy,
    Fabio,
    Caddy,
}

/// All, in the order of the columns.
pub(crate) const ALL: &[Proxy] = &[
    Proxy::Lb,
    Proxy::LbLog,
    Proxy::LbTwo,
    Proxy::LbVaried,
    Proxy::Floor,
    Proxy::Haproxy,
    Proxy::Nginx,
    Proxy::Envoy,
    Proxy::Fabio,
    Proxy::Caddy,
];

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lb => "lb",
            Self::LbLog => "lb+log",
            Self::LbTwo => "lb-2",
            Self::LbVaried => "lb-varied",
            Self::Floor => "floor",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Fabio => "fabio",
            Self::Caddy => "caddy",
        }
    }

    /// Where its program is: `NAME_BIN`, or on PATH; ours come from this build.
    pub(crate) fn program(self) -> Option<PathBuf> {
        if self == Self::Floor {
            return std::env::current_exe().ok();
        }
        let name = if matches!(self, Self::LbLog | Self::LbTwo | Self::LbVaried) {
            "lb"
        } else {
            self.name()
        };
        if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase())) {
            return Some(path.into());
        }
        if name == "lb" {
            Some(env!("CARGO_BIN_EXE_lb").into())
        } else {
            crate::tools::find(name)
        }
    }

    /// The first line in which it tells its version.
    pub(crate) fn version(self) -> String {
        let (Some(program), Some(flag)) = (
            self.program(),
            match self {
                Self::Lb | Self::Caddy => Some("version"),
                Self::Haproxy | Self::Nginx | Self::Fabio => Some("-v"),
                Self::Envoy => Some("--version"),
                Self::LbLog | Self::LbTwo | Self::LbVaried | Self::Floor => None,
            },
        ) else {
            return "of this build".to_owned();
        };
        let output = Command::new(program).arg(flag).output();
        let text = output
            .map(|output| [output.stdout, output.stderr].concat())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("?")
            .trim()
            .to_owned()
    }
}
