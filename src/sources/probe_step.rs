//! A step of `lb check --live`.

/// One step, and how it went. The steps after one that failed are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStep {
    /// What was tried; of Consul: `config`, `resolve`, `connect`, `tls`, `token`, `first read`, or
    /// `targets` where some instances are none.
    pub name: &'static str,
    /// Whether it went well.
    pub ok: bool,
    /// What was found, or what failed.
    pub detail: String,
    /// What to do about a failure, where that is known.
    pub hint: Option<String>,
}

impl ProbeStep {
    /// A step that went well.
    #[must_use]
    pub fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            detail: detail.into(),
            hint: None,
        }
    }

    /// A step that failed.
    #[must_use]
    pub fn failed(name: &'static str, detail: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            name,
            ok: false,
            detail: detail.into(),
            hint,
        }
    }
}
