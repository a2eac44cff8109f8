//! What a token claims, and the rules that it is held to.

use serde_json::{Map, Value};

use super::fault::Fault;

/// By how much the clock of an issuer may differ from ours, in seconds.
const SKEW_S: f64 = 30.0;

/// The claims of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

/// What a token has to claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Its issuer; none: anything.
    pub issuer: Option<String>,
    /// Its audience, one of these; empty: anything.
    pub audiences: Vec<String>,
    /// Claims and the text that each must have, or hold.
    pub required: Vec<(String, String)>,
    /// Without `exp` it is refused.
    pub exp_required: bool,
}

impl Claims {
    pub(super) fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// The claim of this name; where there is none, dots lead into objects
    /// (`realm_access.roles`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        find(&self.0, name)
    }

    /// A point in time, in seconds since 1970.
    fn time(&self, name: &str) -> Result<Option<f64>, Fault> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Fault::Claims),
        }
    }

    /// Whether a claim has this text, or is a list that holds it.
    fn has(&self, name: &str, wanted: &str) -> bool {
        let is_scope = matches!(name, "scope" | "scp");
        match self.get(name) {
            Some(Value::Array(items)) => items.iter().any(|item| is(item, wanted)),
            // RFC 8693 section 4.2: a list with blanks between its items.
            Some(Value::String(scopes)) if is_scope => {
                scopes == wanted || scopes.split(' ').any(|scope| scope == wanted)
            }
            Some(value) => is(value, wanted),
            None => false,
        }
    }
}

impl Rules {
    /// Until when (seconds since 1970) these claims let a request in.
    ///
    /// # Errors
    /// They do not, at `now_s`.
    pub fn check(&self, claims: &Claims, now_s: i64) -> Result<i64, Fault> {
        let now = now_s as f64;
        let (exp, nbf) = (claims.time("exp")?, claims.time("nbf")?);
        let until = match exp {
            Some(exp) if now >= exp + SKEW_S => return Err(Fault::Expired),
            Some(exp) => (exp + SKEW_S) as i64,
            None if self.exp_required => return Err(Fault::NoExpiry),
            None => i64::MAX,
        };
        if nbf.is_some_and(|nbf| now < nbf - SKEW_S) {
            return Err(Fault::NotYetValid);
        }
        if let Some(issuer) = &self.issuer
            && claims.0.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(Fault::Issuer);
        }
        if !self.audiences.is_empty() && !self.is_for_us(claims) {
            return Err(Fault::Audience);
        }
        let required = &mut self.required.iter();
        match required.all(|(name, wanted)| claims.has(name, wanted)) {
            true => Ok(until),
            false => Err(Fault::Insufficient),
        }
    }

    fn is_for_us(&self, claims: &Claims) -> bool {
        let ours = |value: &Value| {
            let audience = value.as_str();
            audience.is_some_and(|audience| self.audiences.iter().any(|ours| ours == audience))
        };
        match claims.0.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().any(ours),
            Some(audience) => ours(audience),
            None => false,
        }
    }
}

fn find<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = members.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    find(members.get(first)?.as_object()?, rest)
}

fn is(value: &Value, wanted: &str) -> bool {
    scalar(value).is_some_and(|text| text == wanted)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A claim as the value of a field: lists have commas between their items. None where that would be
/// read as something else: an item with a comma in it, a list of lists, an object.
#[must_use]
pub fn text_of(value: &Value) -> Option<String> {
    let Value::Array(items) = value else {
        return scalar(value);
    };
    let items: Option<Vec<String>> = items.iter().map(scalar).collect();
    let items = items.filter(|items| items.iter().all(|item| !item.contains(',')))?;
    Some(items.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        let Value::Object(members) = value else {
            panic!("an object");
        };
        Claims::new(members)
    }

    #[test]
    fn rules_hold_or_say_what_is_missing() {
        const NOW: i64 = 1_000_000;
        let rules = Rules {
            issuer: Some("https://id".to_owned()),
            audiences: vec!["shop".to_owned(), "api".to_owned()],
            required: vec![("role".to_owned(), "admin".to_owned())],
            exp_required: true,
        };
        let good = || json!({"iss": "https://id", "aud": "shop", "role": "admin", "exp": NOW + 60});
        assert_eq!(rules.check(&claims(good()), NOW), Ok(NOW + 90));
        for (name, value, expected) in [
            ("exp", json!(NOW - 29), Ok(NOW + 1)),
            ("exp", json!(NOW - 30), Err(Fault::Expired)),
            ("exp", json!(NOW as f64 + 0.5), Ok(NOW + 30)),
            ("exp", json!(0), Err(Fault::Expired)),
            ("exp", json!(-1), Err(Fault::Expired)),
            ("exp", json!((NOW + 60).to_string()), Err(Fault::Claims)),
            ("exp", json!(null), Err(Fault::Claims)),
            ("exp", json!(u64::MAX), Ok(i64::MAX)),
            ("nbf", json!(NOW + 30), Ok(NOW + 90)),
            ("nbf", json!(NOW + 31), Err(Fault::NotYetValid)),
            ("nbf", json!("x"), Err(Fault::Claims)),
            ("iss", json!("https://id/"), Err(Fault::Issuer)),
            ("iss", json!("HTTPS://ID"), Err(Fault::Issuer)),
            ("iss", json!(["https://id"]), Err(Fault::Issuer)),
            ("aud", json!(["x", "api"]), Ok(NOW + 90)),
            ("aud", json!([]), Err(Fault::Audience)),
            ("aud", json!("Shop"), Err(Fault::Audience)),
            ("aud", json!("shop api"), Err(Fault::Audience)),
            ("aud", json!([["shop"]]), Err(Fault::Audience)),
            ("aud", json!({"shop": 1}), Err(Fault::Audience)),
            ("role", json!(["user", "admin"]), Ok(NOW + 90)),
            ("role", json!("Admin"), Err(Fault::Insufficient)),
            ("role", json!("user admin"), Err(Fault::Insufficient)),
            ("role", json!(["adminx"]), Err(Fault::Insufficient)),
            ("role", json!({"admin": true}), Err(Fault::Insufficient)),
        ] {
            let mut changed = good();
            changed[name] = value.clone();
            assert_eq!(
                rules.check(&claims(changed), NOW),
                expected,
                "{name} {value}"
            );
        }
        for (name, fault) in [
            ("exp", Fault::NoExpiry),
            ("iss", Fault::Issuer),
            ("aud", Fault::Audience),
            ("role", Fault::Insufficient),
        ] {
            let mut less = good();
            less.as_object_mut().unwrap().remove(name);
            assert_eq!(rules.check(&claims(less), NOW), Err(fault), "{name}");
        }
        assert_eq!(
            Rules::default().check(&claims(json!({})), NOW),
            Ok(i64::MAX)
        );
    }

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let claims = claims(json!({
            "a.b": "exact", "a": {"b": "nested", "c": {"d": ["x", "y"]}},
            "https://h.example/role": "r", "scope": "read write", "admin": true, "level": 3,
        }));
        for (name, wanted, has) in [
            ("a.b", "exact", true),
            ("a.b", "nested", false),
            ("a.c.d", "y", true),
            ("a.c.d", "z", false),
            ("a.c", "d", false),
            ("https://h.example/role", "r", true),
            ("scope", "write", true),
            ("scope", "read write", true),
            ("scope", "rea", false),
            ("admin", "true", true),
            ("level", "3", true),
            ("nothing", "", false),
        ] {
            assert_eq!(claims.has(name, wanted), has, "{name} {wanted}");
        }
    }

    #[test]
    fn texts_mean_one_thing() {
        for (value, text) in [
            (json!("a,b"), Some("a,b")),
            (json!(["a", "b", 3]), Some("a,b,3")),
            (json!([]), Some("")),
            (json!(["a,b"]), None),
            (json!([["a"]]), None),
            (json!({"a": 1}), None),
            (json!(null), None),
            (json!(1.5), Some("1.5")),
            (json!(false), Some("false")),
        ] {
            assert_eq!(text_of(&value).as_deref(), text, "{value}");
        }
    }
}
