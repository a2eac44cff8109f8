//! What a person sees while the cluster comes up: a bar per phase on a terminal, a line per phase
//! elsewhere.
//!
//! All of it goes to standard error; results are the commands' own and go to standard output.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// One phase under way.
#[derive(Debug)]
pub struct PhaseProgress {
    title: String,
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    /// On standard error; `terminal` decides between bars and lines.
    #[must_use]
    pub fn new(terminal: bool) -> Self {
        let bars = terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars }
    }

    /// Begins a phase of `total` parts.
    #[must_use]
    pub fn phase(&self, title: &str, total: usize) -> PhaseProgress {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total as u64));
            bar.set_style(style(
                "{spinner} {prefix:<26} {bar:20} {pos}/{len} {wide_msg}",
            ));
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        PhaseProgress {
            title: title.to_owned(),
            bar,
            begun: Instant::now(),
        }
    }

    /// A line of its own, above the bars.
    pub fn note(&self, text: &str) {
        match &self.bars {
            // Fails only when standard error is closed, and then there is no reader.
            Some(bars) => drop(bars.println(text)),
            None => line(text),
        }
    }
}

impl PhaseProgress {
    /// So many parts are done; `now` says what is waited for.
    pub fn set(&self, done: usize, now: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(now.to_owned());
        }
    }

    /// The phase is over.
    pub fn done(self, summary: &str) {
        let took = self.begun.elapsed().as_secs_f64();
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("✓ {prefix:<26} {wide_msg}"));
                bar.finish_with_message(format!("{summary} ({took:.1} s)"));
            }
            None => line(&format!("{:<26} {summary} ({took:.1} s)", self.title)),
        }
    }
}

impl Drop for PhaseProgress {
    /// A phase that failed leaves its bar as it stood.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

/// Writes a line; not by `eprintln!`, which panics when the terminal is gone, and then the nodes
/// still have to be stopped.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
