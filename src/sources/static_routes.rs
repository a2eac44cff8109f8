//! The source `static`: what `[[static.route]]` and `routes` say, sent once, and again when the
//! configuration changes.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::Update;
use super::task::SourceTask;
use crate::catalog::command::{self, CommandError};
use crate::catalog::command_list::CommandList;
use crate::catalog::source::SourceName;
use crate::catalog::static_route::StaticRoute;

/// Name of the source.
pub const SOURCE: SourceName = "static";

/// The running source; it ends when this is dropped.
#[derive(Debug)]
pub struct StaticRoutes {
    listing: watch::Sender<Listing>,
    _task: SourceTask,
}

/// Commands, and lines of the text that make none.
type Listing = (CommandList, Arc<[CommandError]>);

/// Starts the source: sends the commands of `routes`, then those of `text` (one a line), then that
/// it is synced. A line of the text that makes no command costs no other, as everywhere in the
/// route language.
///
/// # Errors
/// Everything that is wrong with `routes`; nothing is started then.
pub fn spawn(
    routes: &[StaticRoute],
    text: &str,
    updates: mpsc::Sender<Update>,
) -> Result<StaticRoutes, Vec<CommandError>> {
    let (sender, receiver) = watch::channel(listing(routes, text)?);
    Ok(StaticRoutes {
        listing: sender,
        _task: SourceTask::spawn(run(receiver, updates)),
    })
}

impl StaticRoutes {
    /// Takes over the routes of a new configuration; sent on only when they differ.
    ///
    /// # Errors
    /// Everything that is wrong with `routes`; the old ones stay then.
    pub fn replace(&self, routes: &[StaticRoute], text: &str) -> Result<(), Vec<CommandError>> {
        let next = listing(routes, text)?;
        self.listing.send_if_modified(|present| {
            let differs = *present != next;
            *present = next;
            differs
        });
        Ok(())
    }
}

async fn run(mut receiver: watch::Receiver<Listing>, updates: mpsc::Sender<Update>) {
    let mut synced = false;
    loop {
        let (commands, errors) = receiver.borrow_and_update().clone();
        if updates
            .send(Update::Commands {
                source: SOURCE,
                commands,
                errors,
                seen_at: std::time::Instant::now(),
            })
            .await
            .is_err()
        {
            return;
        }
        if !synced
            && updates
                .send(Update::Synced { source: SOURCE })
                .await
                .is_err()
        {
            return;
        }
        synced = true;
        if receiver.changed().await.is_err() {
            return;
        }
    }
}

fn listing(routes: &[StaticRoute], text: &str) -> Result<Listing, Vec<CommandError>> {
    let (mut commands, mut errors) = (Vec::new(), Vec::new());
    for route in routes {
        match command::from_static(route) {
            Ok(more) => commands.extend(more),
            Err(more) => errors.extend(more),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let (more, errors) = command::parse_commands(text);
    commands.extend(more);
    Ok((commands.into(), errors.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(target: &str) -> StaticRoute {
        StaticRoute {
            service: "web".to_owned(),
            source: "/".to_owned(),
            targets: vec![target.to_owned()],
            options: String::new(),
        }
    }

    fn target(update: Option<Update>) -> String {
        match update {
            Some(Update::Commands {
                source: SOURCE,
                commands,
                ..
            }) => commands[0].to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn sends_once_then_on_difference_only() {
        let (sender, mut updates) = mpsc::channel(8);
        let source = spawn(&[route("http://10.0.0.1:1")], "", sender).expect("valid");
        assert!(target(updates.recv().await).contains("10.0.0.1:1"));
        assert!(matches!(
            updates.recv().await,
            Some(Update::Synced { source: SOURCE })
        ));
        source
            .replace(&[route("http://10.0.0.1:1")], "")
            .expect("valid");
        assert!(source.replace(&[route("nonsense")], "").is_err());
        source
            .replace(&[route("http://10.0.0.2:2")], "")
            .expect("valid");
        assert!(target(updates.recv().await).contains("10.0.0.2:2"));
        drop(source);
        assert!(updates.recv().await.is_none());
    }

    #[tokio::test]
    async fn mistakes_start_nothing_and_are_all_told() {
        let (sender, _updates) = mpsc::channel(8);
        let errors = spawn(&[route("x"), route("http://ok/"), route("y")], "", sender)
            .expect_err("two mistakes");
        assert_eq!(errors.len(), 2);
    }
    #[test]
    fn the_text_follows_and_a_bad_line_costs_itself() {
        let text = "route add a /a http://10.0.0.1:1/\nnonsense\nroute del web";
        let (commands, errors) =
            listing(&[route("http://10.0.0.1:1")], text).expect("the routes are right");
        assert_eq!(commands.len(), 3);
        assert_eq!(commands[2].to_string(), "route del web");
        assert_eq!((errors.len(), errors[0].place().as_str()), (1, "line 2"));
    }
}
