//! Parts of `[policy.NAME]` that are tables themselves: `cors`, `rewrite` and `error_pages`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::declare::{Checked, section};
use super::error::Location;
use super::key::DAY;
use super::raw::{Placed, RawValue};
use super::reader::Reader;
use super::sections::inside;
use crate::catalog::cors::{Cors, CorsRules};
use crate::catalog::error_pages::ErrorPages;
use crate::catalog::path_rewrite::PathRewrite;

section! {
    /// Which sites may use the routes from a browser.
    pub(super) struct CorsConfig is Named "cors" {
        /// Their origins.
        origins: Vec<String> = unset "https://shop.example.com";

        /// Methods that they may use.
        methods: Vec<String> = unset "GET";

        /// Fields that they may send.
        headers: Vec<String> = unset "Content-Type";

        /// Fields of responses that they may see.
        expose: Vec<String> = unset "X-Total";

        /// Whether cookies go along.
        credentials: bool = "false";

        /// How long a browser may remember what it may do.
        max_age: Option<Duration> = unset "10m" in (0, DAY);
    } and {
        /// The same, ready to be sent.
        cors: Option<Arc<Cors>>;
    }
}

impl Checked for CorsConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if reader.has_mistakes() {
            return;
        }
        let rules = CorsRules {
            origins: self.origins.clone(),
            methods: self.methods.clone(),
            headers: self.headers.clone(),
            expose: self.expose.clone(),
            credentials: self.credentials,
            max_age_s: self.max_age.map(|age| age.as_secs()),
        };
        match Cors::new(&rules) {
            Ok(cors) => self.cors = Some(Arc::new(cors)),
            Err((part, why)) => reader.wrong(part, "cannot be carried out", &why),
        }
    }
}

section! {
    /// One rule for paths.
    pub(super) struct RewriteConfig is Named "rewrite" {
        /// What is looked for in a path: a regular expression.
        from: Option<String> = unset "^/old/(.*)";

        /// What stands for it; $1 is the first group.
        to: Option<String> = unset "/new/$1";
    }
}

impl RewriteConfig {
    /// An empty text is one.
    fn to(&self) -> &str {
        self.to.as_deref().unwrap_or_default()
    }
}

impl Checked for RewriteConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        for key in ["from", "to"] {
            if !reader.has(key) {
                let advice = "write { from = \"^/old/(.*)\", to = \"/new/$1\" }";
                return reader.wrong(key, "is missing", advice);
            }
        }
        let from = self.from.as_deref().unwrap_or_default();
        if let Err((part, why)) = PathRewrite::default().add(from, self.to()) {
            reader.wrong(part, "cannot be carried out", &why);
        }
    }
}

/// What `cors` says.
pub(super) fn cors(reader: &mut Reader<'_>, value: &Placed) -> Option<Arc<Cors>> {
    inside::<CorsConfig>(
        reader,
        "cors",
        value,
        "cors = { origins = [\"https://shop.example.com\"] }",
    )?
    .cors
}

/// What `rewrite` says.
pub(super) fn rewrite(reader: &mut Reader<'_>, value: &Placed) -> Option<Arc<PathRewrite>> {
    const ADVICE: &str = "rewrite = [{ from = \"^/old/(.*)\", to = \"/new/$1\" }]";
    let RawValue::List(rules) = &value.value else {
        let advice = format!("write {ADVICE}");
        reader.wrong("rewrite", "is not a list of rules", &advice);
        return None;
    };
    let mut rewrite = PathRewrite::default();
    for (at, rule) in rules.iter().enumerate() {
        let rule: RewriteConfig = inside(reader, &format!("rewrite.{at}"), rule, ADVICE)?;
        // What cannot be carried out is told by the rule itself.
        let _ = rewrite.add(rule.from.as_deref().unwrap_or_default(), rule.to());
    }
    (!rules.is_empty()).then(|| Arc::new(rewrite))
}

/// What `error_pages` says. Names of files are relative to the folder of the configuration.
pub(super) fn error_pages(reader: &mut Reader<'_>, value: &Placed) -> Option<Arc<ErrorPages>> {
    const ADVICE: &str = "write error_pages = { \"404\" = \"404.html\", \"5xx\" = \"sorry.html\" }";
    let RawValue::Table(files) = &value.value else {
        reader.wrong("error_pages", "is not a table of statuses", ADVICE);
        return None;
    };
    let mut pages = ErrorPages::default();
    for (status, file) in files {
        let part = format!("error_pages.{status}");
        let RawValue::Text(name) = &file.value else {
            reader.wrong_part(&part, file, "is not the name of a file", ADVICE);
            continue;
        };
        if name.is_empty() {
            reader.wrong_part(&part, file, "names no file", ADVICE);
            continue;
        }
        let folder = match &file.place {
            Location::File(path, _) => path.parent().unwrap_or(Path::new("")),
            _ => Path::new(""),
        };
        if let Err(problem) = pages.put(status, folder.join(name)) {
            reader.wrong_part(&part, file, problem, ADVICE);
        }
    }
    (!files.is_empty()).then(|| Arc::new(pages))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Inputs, load};

    fn read(text: &str) -> Result<Config, Vec<(String, String)>> {
        let loaded = load(&Inputs {
            file: Some(("etc/lb.toml".into(), text.to_owned())),
            ..Inputs::default()
        });
        loaded.map(|loaded| loaded.config).map_err(|errors| {
            let errors = errors.0.into_iter();
            errors
                .map(|error| (error.key, error.place.to_string()))
                .collect()
        })
    }

    #[test]
    fn tables_are_read_in_all_their_forms() {
        let inline = "[policy.p]\ncors = { origins = [\"https://a.test\"], max_age = \"10m\" }\n\
            rewrite = [{ from = \"^/a\", to = \"\" }]\nerror_pages = { \"404\" = \"p/404.html\" }\n";
        let sections = "[policy.p.cors]\norigins = [\"https://a.test\"]\nmax_age = \"600s\"\n\
            [[policy.p.rewrite]]\nfrom = \"^/a\"\nto = \"\"\n[policy.p.error_pages]\n404 = \"p/404.html\"\n";
        let [first, second] = [inline, sections].map(|text| {
            let config = read(text).unwrap();
            config.policies["p"].policies.clone()
        });
        assert_eq!(first, second);
        assert!(first.cors.is_some());
        let rewrite = first.rewrite.as_ref().unwrap();
        assert_eq!(rewrite.apply("/a/b").as_deref(), Some("/b"));
        let pages = first.error_pages.as_ref().unwrap();
        // Beside the file of the configuration.
        assert_eq!(pages.file(404).unwrap().to_str(), Some("etc/p/404.html"));
    }

    #[test]
    fn mistakes_have_their_key_and_line() {
        for (text, key, line) in [
            (
                "cors = {\n origins = [\"*\"],\n credentials = true }",
                "cors.credentials",
                4,
            ),
            ("cors = {}", "cors.origins", 2),
            ("cors = \"*\"", "cors", 2),
            ("cors = { origin = [\"*\"] }", "cors.origin", 2),
            ("cors = { origins = [\"https://a/\"] }", "cors.origins", 2),
            (
                "cors = { origins = [\"*\"], max_age = 5 }",
                "cors.max_age",
                2,
            ),
            (
                "cors = { origins = [\"*\"], methods = [\"get\"] }",
                "cors.methods",
                2,
            ),
            ("rewrite = { from = \"a\", to = \"b\" }", "rewrite", 2),
            ("rewrite = [\"a\"]", "rewrite.0", 2),
            ("rewrite = [{ from = \"a\" }]", "rewrite.0.to", 2),
            (
                "rewrite = [\n { from = \"a\", to = \"/b\" },\n { from = \"(\", to = \"/b\" },\n]",
                "rewrite.1.from",
                4,
            ),
            (
                "rewrite = [{ from = \"a\", to = \"/$1\" }]",
                "rewrite.0.to",
                2,
            ),
            ("auth = \"nmae\"", "auth", 2),
            ("error_pages = [\"404\"]", "error_pages", 2),
            (
                "error_pages = { \"404\" = \"a\",\n \"3xx\" = \"b\" }",
                "error_pages.3xx",
                3,
            ),
            ("error_pages = { \"404\" = 5 }", "error_pages.404", 2),
            ("error_pages = { \"404\" = \"\" }", "error_pages.404", 2),
        ] {
            let found = read(&format!("[policy.p]\n{text}\n")).expect_err(text);
            let wanted = (format!("policy.p.{key}"), format!("etc/lb.toml:{line}"));
            assert!(found.contains(&wanted), "{text}: {found:?}");
        }
        let found = read("[tags]\nallow = [\"strip\", \"ratee\"]\n").expect_err("a mistake");
        assert_eq!(
            found,
            [("tags.allow".to_owned(), "etc/lb.toml:2".to_owned())]
        );
    }
}
