//! What the demo shows: from a picture of the moment to text. Pure; `board` takes the picture,
//! `mod` writes it.

use std::fmt::Write as _;
use std::time::Duration;

/// Everything on the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Since the start.
    pub uptime: Duration,
    /// Lines at the top: what to open and what to try.
    pub intro: Vec<String>,
    /// Totals of the traffic.
    pub totals: Totals,
    /// The services, in fixed order.
    pub services: Vec<ServiceRow>,
    /// What happened, oldest first.
    pub events: Vec<EventRow>,
}

/// Totals of the demo's own traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Requests that got a response or failed.
    pub requests: u64,
    /// Of them, those without a good response.
    pub failed: u64,
    pub last_failure: Option<String>,
    /// Requests per second, of late.
    pub per_second: f64,
    /// Mean time to the response in milliseconds, of late.
    pub mean_ms: f64,
    /// Events so far.
    pub changes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ServiceRow {
    pub name: String,
    pub route: String,
    pub instances: Vec<InstanceRow>,
}

/// How the router treats an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is a target.
    Serving,
    /// Registered, but left out.
    Out,
    /// Registered, and not in the table (yet).
    Unknown,
    /// Deregistered; shown a moment longer.
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct InstanceRow {
    pub name: String,
    /// How the router treats it.
    pub standing: Standing,
    /// Why, or its health.
    pub note: String,
    /// Requests per second, of late.
    pub per_second: f64,
    /// Requests in flight, as the router counts them.
    pub in_flight: u32,
}

/// One line of the log of events.
#[derive(Clone, Debug)]
pub(super) struct EventRow {
    /// When, since the start.
    pub at: Duration,
    pub text: String,
    /// How long the table took to follow.
    pub followed: Option<Duration>,
}

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// With ANSI colours.
    pub colour: bool,
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";
/// Columns taken by everything in an instance's line but its bar.
const FIXED_COLUMNS: usize = 56;
/// Lines of news that a screen of usual height always has room for.
const NEWS_MIN: usize = 4;
/// Blank lines between the parts, where there is room for them.
const BLANKS: usize = 3;
/// Widest bar.
const BAR_MAX: usize = 40;

/// The whole screen, at most `style.height` lines of at most `style.width` visible columns.
pub(super) fn screen(frame: &Frame, style: Style) -> String {
    let mut lines = vec![headline(frame, style)];
    let busiest = frame
        .services
        .iter()
        .flat_map(|service| &service.instances)
        .map(|row| row.per_second);
    let busiest = busiest.fold(1.0, f64::max);
    let rows: usize = frame
        .services
        .iter()
        .map(|service| 1 + service.instances.len())
        .sum();
    // The last line stays free. What happens is what the demo is for: a small screen gives up blank
    // lines first, then the introduction from its end, then rows.
    let spare = style
        .height
        .saturating_sub(1 + lines.len() + rows + NEWS_MIN);
    let blank = spare >= frame.intro.len() + BLANKS;
    let intro = frame
        .intro
        .iter()
        .take(if blank { spare - BLANKS } else { spare });
    if blank {
        lines.push(String::new());
    }
    lines.extend(intro.map(|line| paint(style, CYAN, &fit(line, style.width))));
    if blank {
        lines.push(String::new());
    }
    for service in &frame.services {
        lines.push(service_line(service, style));
        lines.extend(
            service
                .instances
                .iter()
                .map(|row| instance_line(row, busiest, style)),
        );
    }
    lines.truncate(style.height.saturating_sub(1 + NEWS_MIN).max(1));
    if blank {
        lines.push(String::new());
    }
    let room = style.height.saturating_sub(lines.len() + 1);
    let from = frame.events.len().saturating_sub(room);
    lines.extend(
        frame.events[from..]
            .iter()
            .map(|event| event_line(event, style)),
    );
    lines.truncate(style.height.saturating_sub(1).max(1));
    lines.join("\n")
}

/// One line for logs and pipes.
pub(super) fn summary(frame: &Frame) -> String {
    let mut text = format!(
        "{}  {:.0} req/s, {} requests, {} failed;",
        clock(frame.uptime),
        frame.totals.per_second,
        frame.totals.requests,
        frame.totals.failed
    );
    for service in &frame.services {
        let serving = service
            .instances
            .iter()
            .filter(|row| row.standing == Standing::Serving)
            .count();
        let known = service
            .instances
            .iter()
            .filter(|row| row.standing != Standing::Gone)
            .count();
        let _ = write!(text, " {} {serving}/{known}", service.name);
    }
    text.push_str(" serving");
    text
}

/// One event as a line for logs and pipes.
pub(super) fn event(event: &EventRow) -> String {
    let followed = event
        .followed
        .map(|took| format!("  · table after {}", milliseconds(took)));
    format!(
        "{}  {}{}",
        clock(event.at),
        event.text,
        followed.unwrap_or_default()
    )
}

/// Totals, printed when the demo ends.
pub(super) fn closing(frame: &Frame) -> String {
    let totals = &frame.totals;
    let mut text = format!(
        "{} requests in {}, {} failed, {}.\n",
        totals.requests,
        clock(frame.uptime),
        totals.failed,
        changes(totals.changes)
    );
    if let Some(failure) = &totals.last_failure {
        let _ = writeln!(text, "The last failure: {failure}");
    }
    text
}

/// A time as `mm:ss`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

fn headline(frame: &Frame, style: Style) -> String {
    let totals = &frame.totals;
    let failed = format!("{} failed", totals.failed);
    let failed_colour = if totals.failed == 0 { GREEN } else { RED };
    let parts = [
        clock(frame.uptime),
        format!("{:.0} req/s", totals.per_second),
        format!("{:.1} ms", totals.mean_ms),
        format!("{} requests", totals.requests),
        failed.clone(),
        changes(totals.changes),
        "Ctrl-C ends it".to_owned(),
    ];
    let mut shown: Vec<&str> = parts.iter().map(String::as_str).collect();
    // How to end it and what failed are worth the most.
    let columns = |shown: &[&str]| {
        shown
            .iter()
            .map(|part| part.chars().count() + 3)
            .sum::<usize>()
            + "lb demo".len()
    };
    for least in [&parts[3], &parts[2], &parts[5], &parts[1], &parts[0]] {
        if columns(&shown) > style.width {
            shown.retain(|part| part != least);
        }
    }
    let plain: String = shown.iter().map(|part| format!(" · {part}")).collect();
    let plain = fit(&plain, style.width.saturating_sub("lb demo".len()));
    let painted = plain.replace(&failed, &paint(style, failed_colour, &failed));
    format!("{}{painted}", paint(style, BOLD, "lb demo"))
}

fn changes(count: u64) -> String {
    if count == 1 {
        "1 change".to_owned()
    } else {
        format!("{count} changes")
    }
}

fn service_line(service: &ServiceRow, style: Style) -> String {
    let text = fit(
        &format!("{:<8}{}", service.name, service.route),
        style.width,
    );
    paint(style, BOLD, &text)
}

fn instance_line(row: &InstanceRow, busiest: f64, style: Style) -> String {
    let (sign, colour) = match row.standing {
        Standing::Serving => ("●", GREEN),
        Standing::Out => ("○", RED),
        Standing::Unknown => ("◌", YELLOW),
        Standing::Gone => ("×", DIM),
    };
    let bar_width = style.width.saturating_sub(FIXED_COLUMNS).min(BAR_MAX);
    let bar = bar(row.per_second / busiest, bar_width);
    let figures = format!("{:>6.1}/s {:>3} in flight", row.per_second, row.in_flight);
    let left = format!("  {sign} {:<9}", fit(&row.name, 9));
    let right = fit(
        &format!("{figures}  {}", row.note),
        style.width.saturating_sub(13 + bar_width + 1),
    );
    format!(
        "{}{} {right}",
        paint(style, colour, &left),
        paint(style, colour, &bar)
    )
}

fn event_line(event: &EventRow, style: Style) -> String {
    let text = fit(&format!("{}  {}", clock(event.at), event.text), style.width);
    let Some(followed) = event.followed else {
        return text;
    };
    let note = format!("  · table after {}", milliseconds(followed));
    let room = style.width.saturating_sub(text.chars().count());
    format!("{text}{}", paint(style, DIM, &fit(&note, room)))
}

/// A time in milliseconds, with one decimal while that says something.
pub(super) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// A bar of `width` columns, filled to `share` in steps of an eighth; padded with blanks.
fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let share = if share.is_finite() {
        share.clamp(0.0, 1.0)
    } else {
        0.0
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let eighths = (share * (width * 8) as f64).round() as usize;
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(EIGHTHS[eighths % 8]);
    }
    let drawn = text.chars().count();
    text.extend(std::iter::repeat_n(' ', width.saturating_sub(drawn)));
    text
}

/// Cut to `width` characters, with an ellipsis where something was lost.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

fn paint(style: Style, code: &str, text: &str) -> String {
    if style.colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let row = |name: &str, standing, per_second, note: &str| InstanceRow {
            name: name.into(),
            standing,
            note: note.into(),
            per_second,
            in_flight: 2,
        };
        Frame {
            uptime: Duration::from_secs(83),
            intro: vec!["open http://127.0.0.1:9999/shop/".into()],
            totals: Totals {
                requests: 4210,
                per_second: 61.4,
                mean_ms: 3.2,
                changes: 17,
                ..Totals::default()
            },
            services: vec![ServiceRow {
                name: "shop".into(),
                route: "/shop".into(),
                instances: vec![
                    row("shop-1", Standing::Serving, 20.0, ""),
                    row("shop-2", Standing::Out, 0.0, "check critical"),
                    row("shop-3", Standing::Serving, 10.0, ""),
                    row("shop-4", Standing::Gone, 0.0, "deregistered"),
                ],
            }],
            events: (0..50)
                .map(|n| EventRow {
                    at: Duration::from_secs(n),
                    text: format!("event {n}"),
                    followed: Some(Duration::from_micros(2_340)),
                })
                .collect(),
        }
    }

    const PLAIN: Style = Style {
        colour: false,
        width: 100,
        height: 30,
    };

    #[test]
    fn shows_where_the_traffic_goes() {
        let text = screen(&frame(), PLAIN);
        assert!(text.starts_with(
            "lb demo · 01:23 · 61 req/s · 3.2 ms · 4210 requests · 0 failed · 17 changes"
        ));
        let full = "█".repeat(40);
        let half = "█".repeat(20);
        let line = |name: &str| {
            text.lines()
                .find(|line| line.contains(name))
                .unwrap()
                .to_owned()
        };
        assert!(
            line("shop-1").contains(&format!("● shop-1   {full}   20.0/s")),
            "{text}"
        );
        assert!(
            line("shop-3").contains(&format!("● shop-3   {half} ")),
            "{text}"
        );
        assert!(
            line("shop-2").contains("○ shop-2 ") && line("shop-2").contains("check critical"),
            "{text}"
        );
        assert!(line("shop-4").contains("× shop-4"));
        assert!(line("event 49").ends_with("· table after 2.3 ms"));
    }

    #[test]
    fn fits_every_screen_and_keeps_the_newest_events() {
        for (width, height) in [(200, 60), (80, 24), (40, 12), (10, 4), (1, 1), (0, 0)] {
            let text = screen(
                &frame(),
                Style {
                    colour: false,
                    width,
                    height,
                },
            );
            assert!(text.lines().count() <= height.max(1), "{width}x{height}");
            let widest = text
                .lines()
                .map(|line| line.chars().count())
                .max()
                .unwrap_or(0);
            assert!(
                widest <= width.max(15),
                "{width}x{height}: {widest} columns"
            );
        }
        let text = screen(
            &frame(),
            Style {
                height: 24,
                ..PLAIN
            },
        );
        assert!(
            text.contains("event 49") && !text.contains("event 9 "),
            "{text}"
        );
    }

    #[test]
    fn eighty_by_twenty_four_shows_news_and_how_to_end_it() {
        let mut frame = frame();
        frame.intro = (0..7).map(|n| format!("intro {n}")).collect();
        frame.totals = Totals {
            requests: 123_456,
            changes: 1,
            ..frame.totals
        };
        let row = frame.services[0].instances[0].clone();
        frame.services = vec![frame.services[0].clone(); 3];
        for service in &mut frame.services {
            service.instances = vec![row.clone(); 4];
        }
        let text = screen(
            &frame,
            Style {
                colour: false,
                width: 80,
                height: 24,
            },
        );
        let news = text.lines().filter(|line| line.contains("event ")).count();
        assert!(news >= 3, "{text}");
        assert!(
            text.contains("intro 0") && text.lines().count() < 24,
            "{text}"
        );
        let first = text.lines().next().unwrap();
        assert!(
            first.ends_with("1 change · Ctrl-C ends it") && first.contains("0 failed"),
            "{first}"
        );
        let narrow = screen(
            &frame,
            Style {
                colour: false,
                width: 40,
                height: 24,
            },
        );
        assert!(
            narrow
                .lines()
                .next()
                .unwrap()
                .ends_with("0 failed · Ctrl-C ends it"),
            "{narrow}"
        );
    }

    #[test]
    fn no_colour_means_no_escape() {
        assert!(!screen(&frame(), PLAIN).contains('\x1b'));
        let colourful = screen(
            &frame(),
            Style {
                colour: true,
                ..PLAIN
            },
        );
        assert!(colourful.contains("\x1b[32m0 failed\x1b[0m"));
        let mut failing = frame();
        failing.totals.failed = 3;
        assert!(
            screen(
                &failing,
                Style {
                    colour: true,
                    ..PLAIN
                }
            )
            .contains("\x1b[31m3 failed\x1b[0m")
        );
    }

    #[test]
    fn bars_have_the_given_width_whatever_the_share() {
        for share in [
            -1.0,
            0.0,
            0.01,
            0.5,
            0.999,
            1.0,
            7.0,
            f64::NAN,
            f64::INFINITY,
        ] {
            assert_eq!(bar(share, 20).chars().count(), 20, "{share}");
        }
        assert_eq!(bar(0.5, 4), "██  ");
        assert_eq!(bar(0.55, 5), "██▊  ");
    }

    #[test]
    fn plain_lines() {
        assert_eq!(
            summary(&frame()),
            "01:23  61 req/s, 4210 requests, 0 failed; shop 2/3 serving"
        );
        assert_eq!(
            event(&frame().events[5]),
            "00:05  event 5  · table after 2.3 ms"
        );
        let mut frame = frame();
        frame.totals.last_failure = Some("502 from /shop/".into());
        assert_eq!(
            closing(&frame),
            "4210 requests in 01:23, 0 failed, 17 changes.\nThe last failure: 502 from /shop/\n"
        );
    }
}
