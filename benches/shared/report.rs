//! Figures of a benchmark against their goals.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Figures, printed as they come and written at the end.
#[derive(Default)]
pub struct Report(Map<String, Value>);

impl Report {
    /// One figure, and the most it should be.
    pub fn add(&mut self, phase: &str, what: &str, value: f64, unit: &str, goal: Option<f64>) {
        let verdict = match goal {
            Some(goal) if value <= goal => format!("goal {goal} met"),
            Some(goal) => format!("goal {goal} MISSED"),
            None => String::new(),
        };
        println!("{phase:<8} {what:<40} {value:>10.2} {unit:<12} {verdict}");
        let entry = json!({"value": value, "unit": unit, "goal": goal});
        self.0.insert(format!("{phase}: {what}"), entry);
    }

    /// Times as percentiles; `goals`: the most that p50 and p99 should be, in ms.
    pub fn percentiles(
        &mut self,
        phase: &str,
        what: &str,
        times: &mut [Duration],
        goals: Option<(f64, f64)>,
    ) {
        times.sort_unstable();
        let (p50, p99) = goals.unzip();
        for (share, goal) in [(50, p50), (99, p99), (100, None)] {
            let at = (times.len() * share).div_ceil(100).clamp(1, times.len()) - 1;
            let name = if share == 100 {
                "max".to_owned()
            } else {
                format!("p{share}")
            };
            self.add(
                phase,
                &format!("{what}, {name} of {}", times.len()),
                times[at].as_secs_f64() * 1e3,
                "ms",
                goal,
            );
        }
    }

    /// Writes all figures beside the target folder's profiles.
    pub fn write(self, file: &str) {
        let profile = Path::new(env!("CARGO_BIN_EXE_lb"))
            .parent()
            .expect("a profile's folder");
        let path = profile.with_file_name(file);
        let text = serde_json::to_string_pretty(&Value::Object(self.0)).expect("JSON");
        let mut file = std::fs::File::create(&path).expect("the report's file");
        writeln!(file, "{text}").expect("the report's file");
        println!("written to {}", path.display());
    }
}
