//! The source `static`: what `[[static.route]]` and `routes` say, sent once, and again when the
//! configuration changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::context::Context;
use super::look::Look;
use super::source::{Reload, RunningSource, Source, SourceError};
use super::task::SourceTask;
use super::update::Update;
use crate::catalog::command::{self, CommandError};
use crate::catalog::command_list::CommandList;
use crate::catalog::source::SourceName;
use crate::catalog::static_route::StaticRoute;
use crate::config::Config;

pub(crate) const SOURCE: SourceName = "static";

/// Commands, and lines of the text that make none.
type Listing = (CommandList, Arc<[CommandError]>);

/// The source `static`: the commands of `[[static.route]]`, then those of `routes` (one a line). A
/// line of the text that makes no command costs no other, as everywhere in the route language.
#[derive(Debug)]
pub(crate) struct StaticRoutes;

#[derive(Debug)]
struct Running {
    listing: watch::Sender<Listing>,
    _task: SourceTask,
}

impl Source for StaticRoutes {
    fn name(&self) -> SourceName {
        SOURCE
    }

    fn is_on(&self, config: &Config) -> bool {
        config.has_static_source()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let (sender, receiver) = watch::channel(listing_of(config)?);
        let work = run(receiver, context.updates.clone(), context.now);
        Ok(Box::new(Running {
            listing: sender,
            _task: SourceTask::spawn(work),
        }))
    }

    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str> {
        // One source serves both keys, and is there or not from the start.
        let differs = self.is_on(present) != self.is_on(next);
        differs.then_some("static.route").into_iter().collect()
    }

    fn takes_away(&self, present: &Config, next: &Config) -> bool {
        let is_text = |config: &Config| !config.routes.trim().is_empty();
        let routes = next.static_routes.iter();
        let routes: HashSet<_> = routes.map(|it| (&it.service, &it.source)).collect();
        let mut before = present.static_routes.iter();
        (is_text(present) && !is_text(next))
            || before.any(|it| !routes.contains(&(&it.service, &it.source)))
    }

    fn looks<'a>(&self, config: &'a Config) -> Vec<Look<'a>> {
        vec![Look::Commands("routes", &config.routes)]
    }
}

impl RunningSource for Running {
    /// Sent on only when they differ.
    fn prepare(&self, next: &Config) -> Result<Reload, SourceError> {
        let next = listing_of(next)?;
        if *self.listing.borrow() == next {
            return Ok(Reload::Unchanged);
        }
        let listing = self.listing.clone();
        Ok(Reload::Apply(Box::new(move || {
            listing.send_replace(next);
        })))
    }
}

async fn run(
    mut receiver: watch::Receiver<Listing>,
    updates: mpsc::Sender<Update>,
    now: fn() -> Instant,
) {
    let mut synced = false;
    loop {
        let (commands, errors) = receiver.borrow_and_update().clone();
        if updates
            .send(Update::Commands {
                source: SOURCE,
                commands,
                errors,
                seen_at: now(),
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

fn listing_of(config: &Config) -> Result<Listing, SourceError> {
    listing(&config.static_routes, &config.routes).map_err(|errors| {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("static.route: `{}`: {}", error.text, error.reason))
            .collect();
        SourceError::new(lines.join("; "))
    })
}

/// The commands of `routes`, then those of `text`.
///
/// # Errors
/// Everything that is wrong with `routes`.
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
    use crate::metrics::Metrics;

    fn route(target: &str) -> StaticRoute {
        StaticRoute {
            service: "web".to_owned(),
            source: "/".to_owned(),
            targets: vec![target.to_owned()],
            options: String::new(),
        }
    }

    fn config(routes: Vec<StaticRoute>) -> Config {
        Config {
            static_routes: routes,
            ..Config::default()
        }
    }

    fn start(
        config: &Config,
    ) -> Result<(Box<dyn RunningSource>, mpsc::Receiver<Update>), SourceError> {
        let (updates, received) = mpsc::channel(8);
        let context = Context::telling(updates, Metrics::default());
        Ok((StaticRoutes.start(config, &context)?, received))
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
        let present = config(vec![route("http://10.0.0.1:1")]);
        let (source, mut updates) = start(&present).expect("valid");
        assert!(target(updates.recv().await).contains("10.0.0.1:1"));
        assert!(matches!(
            updates.recv().await,
            Some(Update::Synced { source: SOURCE })
        ));
        let same = source.prepare(&present).expect("valid");
        assert!(matches!(same, Reload::Unchanged), "{same:?}");
        same.apply();
        assert!(source.prepare(&config(vec![route("nonsense")])).is_err());
        let next = config(vec![route("http://10.0.0.2:2")]);
        source.prepare(&next).expect("valid").apply();
        assert!(target(updates.recv().await).contains("10.0.0.2:2"));
        drop(source);
        assert!(updates.recv().await.is_none());
    }

    #[tokio::test]
    async fn what_is_prepared_takes_effect_when_it_is_applied() {
        let (source, mut updates) = start(&config(vec![route("http://10.0.0.1:1")])).unwrap();
        updates.recv().await;
        updates.recv().await;
        let none = source.prepare(&Config::default()).unwrap();
        tokio::task::yield_now().await;
        assert!(updates.try_recv().is_err(), "not yet");
        none.apply();
        let Some(Update::Commands { commands, .. }) = updates.recv().await else {
            panic!("no commands");
        };
        assert!(commands.is_empty(), "every route is gone");
    }

    #[tokio::test]
    async fn mistakes_start_nothing_and_are_all_reported() {
        let routes = vec![route("x"), route("http://ok/"), route("y")];
        let error = start(&config(routes)).err().expect("two mistakes");
        assert_eq!(error.to_string().matches("static.route: ").count(), 2);
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
