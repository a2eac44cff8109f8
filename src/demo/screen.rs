//! Where the demo's picture goes: a terminal, redrawn in place, or anything else, line by line.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::view::{self, Frame, Style};

/// Pictures per second on a terminal: four.
const REDRAW: Duration = Duration::from_millis(250);
/// Elsewhere: a summary line this often, and events as they come.
const SUMMARY: Duration = Duration::from_secs(5);

/// Elsewhere an event waits this long for the table to follow it, so that one line can say both.
const FOLLOW_WAIT: Duration = Duration::from_secs(2);

/// Enters the alternate screen and hides the cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Shows the cursor and gives the old screen back.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

#[derive(Debug)]
pub(super) struct Screen {
    live: bool,
    colour: bool,
    entered: bool,
    drawn: Option<Instant>,
    summarised: Option<Instant>,
    events_shown: u64,
}

impl Screen {
    /// Standard output, as the terminal or pipe that it is.
    pub(super) fn on_stdout() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = io::stdout().is_terminal() && !dumb;
        // https://no-color.org: present and not empty.
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            live,
            colour,
            entered: false,
            drawn: None,
            summarised: None,
            events_shown: 0,
        }
    }

    /// Whether the picture is redrawn in place.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether it is time for the next picture.
    pub(super) fn is_due(&self) -> bool {
        self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW)
    }

    /// Draws, or writes what is new.
    pub(super) fn draw(&mut self, frame: &Frame) -> io::Result<()> {
        self.drawn = Some(Instant::now());
        if self.live {
            self.redraw(frame)
        } else {
            self.append(frame)
        }
    }

    /// Gives the terminal back and says the last words. Errors are of no use any more.
    pub(super) fn close(&mut self, frame: &Frame) {
        self.leave();
        if !self.live {
            let _ = self.append_events(frame, Duration::ZERO);
        }
        let _ = io::stdout()
            .lock()
            .write_all(view::closing(frame).as_bytes());
    }

    fn redraw(&mut self, frame: &Frame) -> io::Result<()> {
        // A terminal that does not know its size says 0.
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (width, height) = size.map_or((80, 24), |size| {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        });
        let text = view::screen(
            frame,
            Style {
                colour: self.colour,
                width,
                height,
            },
        );
        let mut out = String::with_capacity(text.len() + 512);
        if !self.entered {
            out.push_str(ENTER);
            self.entered = true;
        }
        // Each line clears what the last picture left behind it, so nothing flickers.
        out.push_str("\x1b[H");
        for line in text.lines() {
            out.push_str(line);
            out.push_str("\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()
    }

    fn append(&mut self, frame: &Frame) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.summarised.is_none() {
            for line in &frame.intro {
                writeln!(stdout, "{line}")?;
            }
            self.summarised = Some(Instant::now());
        }
        drop(stdout);
        self.append_events(frame, FOLLOW_WAIT)?;
        let mut stdout = io::stdout().lock();
        if self.summarised.is_some_and(|at| at.elapsed() >= SUMMARY) {
            writeln!(stdout, "{}", view::summary(frame))?;
            self.summarised = Some(Instant::now());
        }
        stdout.flush()
    }

    /// Writes new events; one that the table has not followed yet is held back for `wait`, and what
    /// comes after it.
    fn append_events(&mut self, frame: &Frame, wait: Duration) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        // Old events fall off the frame: count from its end.
        let new = usize::try_from(frame.totals.changes - self.events_shown)
            .unwrap_or(usize::MAX)
            .min(frame.events.len());
        self.events_shown = frame.totals.changes - new as u64;
        for event in &frame.events[frame.events.len() - new..] {
            if event.followed.is_none() && frame.uptime.saturating_sub(event.at) < wait {
                break;
            }
            writeln!(stdout, "{}", view::event(event))?;
            self.events_shown += 1;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.entered) {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(LEAVE.as_bytes());
            let _ = stdout.flush();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // However the demo ends, the terminal must be usable.
        self.leave();
    }
}

/// Says what is going on before there is a picture.
pub(super) fn progress(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
