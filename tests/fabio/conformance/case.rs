//! The shape of a file of cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Lb,
    Fabio,
}

/// All cases under the same settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name of the file, which is also the prefix of its tags.
    #[serde(skip)]
    pub name: String,
    /// Flags.
    #[serde(default)]
    pub settings: Vec<String>,
    /// Listeners, `PROTO[;OPTIONS]`: the first gets port 9001 of the program's address, and so on.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Files in the program's working folder: name and content.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// For one program only, and why.
    #[serde(default)]
    pub only: Option<Only>,
    /// Fabio has it from this version on.
    #[serde(default)]
    pub since: Option<String>,
    /// The cases.
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// Why something is for one program only.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    /// `lb` or `fabio`.
    pub who: String,
    /// The reason.
    #[expect(dead_code, reason = "for the reader of the file")]
    pub why: String,
}

impl Only {
    fn is(&self, who: Who) -> bool {
        self.who.eq_ignore_ascii_case(&format!("{who:?}"))
    }
}

/// One rule.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The rule that it shows.
    pub rule: String,
    /// Tags (without prefix) of an instance whose upstream is `a`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Further instances.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Commands in the KV store.
    #[serde(default)]
    pub kv: Option<String>,
    /// For one program only.
    #[serde(default)]
    pub only: Option<Only>,
    /// Fabio has it from this version on.
    #[serde(default)]
    pub since: Option<String>,
    /// What is sent first.
    #[serde(flatten)]
    pub first: Step,
    /// What happens then.
    #[serde(default)]
    pub then: Vec<Step>,
}

/// One registration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Name of its upstream, which is also its id within the case.
    pub up: String,
    /// Tags, without prefix if they begin with `+`, else as they are (plain tags begin with `=`).
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its service; one for the case by default.
    #[serde(default)]
    pub service: Option<String>,
    /// States of its checks.
    #[serde(default = "passing")]
    pub checks: Vec<String>,
    /// Its node.
    #[serde(default)]
    pub node: Option<String>,
    /// Checks of the node, `ID=STATE`.
    #[serde(default)]
    pub node_checks: Vec<String>,
    /// Other address than the upstream's; may be empty.
    #[serde(default)]
    pub address: Option<String>,
}

fn passing() -> Vec<String> {
    vec!["passing".to_owned()]
}

/// One thing to do and to look at.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Step {
    /// Changes first: `check UP STATE`, `node UP ID=STATE`, `gone UP`, `back UP`, `kv TEXT`,
    /// `kv-delete`, `delete KEY` (under the file's KV path).
    #[serde(default)]
    pub act: Vec<String>,
    /// `METHOD HOST/PATH`, or another verb of `ask.rs`.
    #[serde(default)]
    pub ask: String,
    /// Listener: its place in the list from 1, or `admin`.
    #[serde(default)]
    pub on: Option<String>,
    /// Header lines.
    #[serde(default)]
    pub head: Vec<String>,
    /// Body of the request.
    #[serde(default)]
    pub body: Option<String>,
    /// How often; shares are looked at then.
    #[serde(default)]
    pub times: Option<usize>,
    /// Each time on a connection of its own, not all on one.
    #[serde(default)]
    pub apart: bool,
    /// It may take a moment until it is so.
    #[serde(default)]
    pub settles: bool,
    /// What must come of it.
    #[serde(default)]
    pub want: Want,
    /// What comes of it with Fabio, where that is something else.
    #[serde(default)]
    pub fabio: Option<Want>,
    /// Why.
    #[serde(default)]
    pub why: Option<String>,
}

/// An expected outcome; what is not given is not looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Want {
    /// Status; 200 if not given, unless `closed`.
    pub status: Option<u16>,
    /// Upstream that responded.
    pub from: Option<String>,
    /// Path and query as the upstream got them.
    pub path: Option<String>,
    /// Method as the upstream got it.
    pub method: Option<String>,
    /// Body as the upstream got it.
    pub sent_body: Option<String>,
    /// Header fields as the upstream got them; false: none.
    #[serde(default)]
    pub sent: BTreeMap<String, Field>,
    /// Header fields of the response; false: none.
    #[serde(default)]
    pub head: BTreeMap<String, Field>,
    /// The whole body of the response.
    pub body: Option<String>,
    /// Parts of the body of the response.
    #[serde(default)]
    pub body_has: Vec<String>,
    /// What the body of the response must not hold.
    #[serde(default)]
    pub body_lacks: Vec<String>,
    /// The connection ends without a response.
    #[serde(default)]
    pub closed: bool,
    /// Share of each upstream, of `times` requests.
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// With shares: exactly these counts (`rr`).
    #[serde(default)]
    pub exact: bool,
}

/// What a header field must be.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Field {
    /// True: there, false: not there.
    Present(bool),
    /// This value; `~part`: holds this part.
    Value(String),
}

/// All files, those that `LB_CASES` names if it is set.
pub fn load() -> Vec<File> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fabio/conformance/cases");
    let wanted = std::env::var("LB_CASES").unwrap_or_default();
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
    {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !wanted.split(',').any(|part| name.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let file: File =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in &file.cases {
            for step in case.steps() {
                assert_eq!(
                    step.fabio.is_some(),
                    step.why.is_some(),
                    "{name}: {}: fabio= needs a why=",
                    case.rule
                );
            }
        }
        files.push(File { name, ..file });
    }
    assert!(!files.is_empty(), "no file of cases is called {wanted:?}");
    files
}

impl File {
    pub fn is_for(&self, who: Who, version: &str) -> bool {
        fits(who, version, self.only.as_ref(), self.since.as_ref())
    }

    /// Prefix of its tags.
    pub fn tag_prefix(&self) -> String {
        format!("{}-", self.name)
    }

    /// Its path in the KV store.
    pub fn kv_path(&self) -> String {
        format!("conformance/{}/config", self.name)
    }
}

impl Case {
    pub fn is_for(&self, who: Who, version: &str) -> bool {
        fits(who, version, self.only.as_ref(), self.since.as_ref())
    }

    pub fn steps(&self) -> Vec<Step> {
        std::iter::once(&self.first)
            .chain(&self.then)
            .cloned()
            .collect()
    }

    /// All its registrations.
    pub fn instances(&self) -> Vec<Instance> {
        let mut all = self.instances.clone();
        if !self.tags.is_empty() {
            let first = Instance {
                up: "a".to_owned(),
                tags: self.tags.clone(),
                service: None,
                checks: passing(),
                node: None,
                node_checks: Vec::new(),
                address: None,
            };
            all.insert(0, first);
        }
        all
    }
}

fn fits(who: Who, version: &str, only: Option<&Only>, since: Option<&String>) -> bool {
    let new_enough = who == Who::Lb || since.is_none_or(|since| numbers(version) >= numbers(since));
    new_enough && only.is_none_or(|only| only.is(who))
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .filter_map(|part| part.parse().ok())
        .collect()
}
