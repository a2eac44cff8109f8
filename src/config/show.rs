//! The effective configuration as JSON, in the shape of the file, without secrets.

use serde_json::{Map, Value};

use super::declare::Declared;
use super::*;

impl Config {
    /// For `/api/config`: every key with its value in force; tokens as `***`, durations as text.
    #[must_use]
    pub fn to_masked_json(&self) -> Value {
        let mut shown = Shown(self.show());
        shown.put(self.routes_http.as_ref());
        shown.put(self.consul.as_ref());
        if let Some(consul) = &self.consul {
            shown.put(Some(&consul.register));
        }
        shown.put(self.nomad.as_ref());
        shown.list(self.listeners.iter());
        shown.named(&self.certificates, CertificateConfig::shown);
        shown.named(&self.auth, Declared::show);
        shown.named(&self.policies, Declared::show);
        shown.put(Some(&self.vault));
        let routes: Vec<_> = self.static_routes.iter().map(Into::into).collect();
        shown.list::<StaticRouteConfig>(routes.iter());
        shown.put(Some(&self.routing));
        shown.put(Some(&self.tags));
        shown.put(Some(&self.proxy));
        shown.hide("proxy", "direct");
        shown.put(Some(&self.compression));
        shown.put(Some(&self.proxy.retry));
        shown.put(Some(&self.health));
        shown.put(Some(&self.dns));
        shown.put(Some(&self.admin));
        shown.put(Some(&self.metrics));
        shown.put(Some(&self.drain));
        shown.put(Some(&self.fleet));
        shown.put(Some(&self.log));
        Value::Object(shown.0)
    }
}

/// Sections as they stand in the file.
struct Shown(Map<String, Value>);

impl Shown {
    /// A section that stands once; none where it is left out.
    fn put<S: Declared>(&mut self, section: Option<&S>) {
        let value = section.map_or(Value::Null, |it| Value::Object(it.show()));
        self.set(S::SECTION.name, value);
    }

    /// The repetitions of a `[[section]]`.
    fn list<'a, S: Declared + 'a>(&mut self, items: impl Iterator<Item = &'a S>) {
        let items = items.map(|it| Value::Object(it.show()));
        self.set(S::SECTION.name, items.collect());
    }

    /// The repetitions of a `[section.NAME]`.
    fn named<S: Declared>(
        &mut self,
        items: &BTreeMap<String, S>,
        show: impl Fn(&S) -> Map<String, Value>,
    ) {
        let items = items.iter();
        let items = items.map(|(name, it)| (name.clone(), Value::Object(show(it))));
        self.set(S::SECTION.name, Value::Object(items.collect()));
    }

    /// Puts a value where its dotted name says.
    fn set(&mut self, name: &str, value: Value) {
        let Some((outer, name)) = name.split_once('.') else {
            self.0.insert(name.to_owned(), value);
            return;
        };
        let outer = self.0.entry(outer).or_insert_with(|| Map::new().into());
        outer[name] = value;
    }

    /// Takes out a key that is read and has no effect.
    fn hide(&mut self, section: &str, key: &str) {
        if let Some(Value::Object(section)) = self.0.get_mut(section) {
            section.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::key_count;
    use super::super::keys::{SECTIONS, Shape};
    use super::super::{Inputs, load};
    use super::*;

    fn sample() -> Config {
        let text = r#"
            [consul]
            address = "https://127.0.0.1:8501"
            http_auth = "me:secret"
            token = "secret"
            cert_pem = "public"
            key_pem = "secret"
            [[listener]]
            address = "127.0.0.1:1"
            protocol = "https"
            certificates = "main"
            [certificates.main]
            cert_file = "a.pem"
            [auth.main]
            file = "users"
            [policy.main]
            rate = "1/s"
            request_headers = { set = { A = "b" }, remove = ["C"] }
            [certificates.web]
            source = "http"
            url = "https://me:secret@h/list?key=secret"
            headers = ["x-key: secret"]
            [certificates.kv]
            source = "consul"
            url = "https://h/v1/kv/certs?token=secret"
            token = "secret"
            [nomad]
            token = "secret"
            [vault]
            token = "secret"
            [routes_http]
            url = "https://me:secret@h/routes?key=secret"
            headers = ["x-key: secret"]
            [[static.route]]
            service = "a"
            source = "/"
            targets = ["http://h:1/"]
        "#;
        load(&Inputs {
            file: Some(("lb.toml".into(), text.to_owned())),
            ..Inputs::default()
        })
        .unwrap()
        .config
    }

    #[test]
    fn every_key_is_shown() {
        let json = sample().to_masked_json();
        let mut seen = 0;
        for section in SECTIONS {
            let place = match section.shape {
                Shape::Top => json.clone(),
                Shape::Once => section
                    .name
                    .split('.')
                    .fold(json.clone(), |place, part| place[part].clone()),
                Shape::List if section.name == "listener" => json["listener"][0].clone(),
                Shape::List => json["static"]["route"][0].clone(),
                Shape::Named => json[section.name]["main"].clone(),
            };
            for key in section.keys {
                let has_effect = section.path(key) != "proxy.direct";
                assert_eq!(
                    place.get(key.name).is_some(),
                    has_effect,
                    "{} is not shown",
                    section.path(key)
                );
                seen += 1;
            }
        }
        assert_eq!(seen, key_count());
    }

    #[test]
    fn secrets_are_not() {
        let text = sample().to_masked_json().to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains(r#""token":"***""#), "{text}");
        assert!(
            text.contains(r#""key_pem":"***""#) && text.contains(r#""cert_pem":"public""#),
            "{text}"
        );
    }
}
