//! Compares what came with what a case wants.

use std::collections::BTreeMap;

use serde_json::Value;

use super::case::{Field, Step, Want, Who};
use super::client::{self, Response};
use super::setup::Setup;
use super::subject::Subject;
use crate::support::client::RawResponse;

/// Sends once (or as often as the step says); an error is a line about what is not as it should be.
pub fn step(setup: &Setup, subject: &Subject, step: &Step) -> Result<(), String> {
    let want = match (&step.fabio, subject.who) {
        (Some(other), Who::Fabio) => other,
        _ => &step.want,
    };
    match step.times {
        Some(times) => shares(&client::many(setup, subject, step, times), want),
        None => answer(setup, subject, &client::once(setup, subject, step), want),
    }
}

fn shares(answers: &[String], want: &Want) -> Result<(), String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in answers {
        *counts.entry(name).or_default() += 1;
    }
    let names = want
        .shares
        .keys()
        .map(String::as_str)
        .chain(counts.keys().copied());
    for name in names {
        let count = counts.get(name).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "hundreds")]
        let share = count as f64 / answers.len() as f64;
        let wanted = want.shares.get(name).copied().unwrap_or(0.0);
        // By chance: five times the deviation to be expected, so that it goes wrong once in a
        // million runs.
        #[expect(clippy::cast_precision_loss, reason = "hundreds")]
        let slack = if want.exact {
            1e-9
        } else {
            5.0 * (wanted * (1.0 - wanted) / answers.len() as f64).sqrt()
        };
        if (share - wanted).abs() > slack {
            return Err(format!(
                "{name} got {share} of the requests, not {wanted}: {counts:?}"
            ));
        }
    }
    Ok(())
}

fn answer(setup: &Setup, subject: &Subject, answer: &Response, want: &Want) -> Result<(), String> {
    let Some(answer) = answer else {
        return if want.closed {
            Ok(())
        } else {
            Err("the connection ended without an answer".to_owned())
        };
    };
    if want.closed {
        return Err(format!("an answer came: {}", shown(answer)));
    }
    let fill = |text: &str| setup.fill(text).replace("<ip>", &subject.ip);
    let status = want.status.unwrap_or(200);
    if answer.status != status {
        return Err(format!(
            "status is {}, not {status}: {}",
            answer.status,
            shown(answer)
        ));
    }
    fields("answer", &answer.headers, &want.head, &fill)?;
    let text = answer.text();
    if let Some(body) = &want.body
        && text != fill(body)
    {
        return Err(format!("body is {text:?}, not {:?}", fill(body)));
    }
    if let Some(part) = want
        .body_has
        .iter()
        .find(|part| !text.contains(&fill(part)))
    {
        return Err(format!("body lacks {part:?}: {}", short(&text)));
    }
    if let Some(part) = want
        .body_lacks
        .iter()
        .find(|part| text.contains(&fill(part)))
    {
        return Err(format!("body holds {part:?}: {}", short(&text)));
    }
    upstream(answer, want, &fill)
}

/// What the upstream tells of the request it got.
fn upstream(
    answer: &RawResponse,
    want: &Want,
    fill: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    if want.from.is_none()
        && want.path.is_none()
        && want.method.is_none()
        && want.sent.is_empty()
        && want.sent_body.is_none()
    {
        return Ok(());
    }
    if let Some(from) = &want.from {
        let name = answer.header("x-instance").unwrap_or("nobody");
        if name != from {
            return Err(format!("{name} answered, not {from}"));
        }
    }
    let Ok(got) = serde_json::from_slice::<Value>(&answer.body) else {
        let only_from = want.path.is_none()
            && want.method.is_none()
            && want.sent.is_empty()
            && want.sent_body.is_none();
        return if only_from {
            Ok(())
        } else {
            Err(format!("no upstream answered: {}", shown(answer)))
        };
    };
    for (what, wanted) in [
        ("path", &want.path),
        ("method", &want.method),
        ("body", &want.sent_body),
    ] {
        if let Some(wanted) = wanted
            && got[what] != fill(wanted)
        {
            return Err(format!(
                "upstream got {what} {}, not {:?}",
                got[what],
                fill(wanted)
            ));
        }
    }
    let headers: Vec<(String, String)> =
        serde_json::from_value(got["headers"].clone()).unwrap_or_default();
    fields("request to the upstream", &headers, &want.sent, fill)
}

fn fields(
    whose: &str,
    headers: &[(String, String)],
    wanted: &BTreeMap<String, Field>,
    fill: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    for (name, wanted) in wanted {
        let values: Vec<&str> = headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .collect();
        let joined = values.join(" | ");
        let fits = match wanted {
            Field::Present(present) => *present != values.is_empty(),
            Field::Value(text) => match text.strip_prefix('~') {
                Some(part) => joined.contains(&fill(part)),
                None => !values.is_empty() && joined == fill(text),
            },
        };
        if !fits {
            return Err(format!(
                "{name} of the {whose} is {values:?}, not {wanted:?}"
            ));
        }
    }
    Ok(())
}

fn shown(answer: &RawResponse) -> String {
    format!(
        "{} {:?} {:?}",
        answer.status,
        answer.headers,
        short(&answer.text())
    )
}

fn short(text: &str) -> String {
    text.chars().take(600).collect()
}
