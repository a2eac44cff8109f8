//! Nomad job files (HCL): which services they register, with which tags.
//!
//! Nothing is evaluated. What an expression leaves open (a variable, an interpolation) stays open
//! in the result, so that it is neither guessed at nor complained about.

use hcl_edit::Span;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Attribute, Block, Body};
use hcl_edit::template::Element;

/// A tag of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobTag {
    /// The text; each interpolation stands as written.
    pub text: String,
    /// The text with `1` for each interpolation: as good a value as any for a host, a path or a
    /// number.
    pub sample: String,
    /// Whether there is an interpolation in it.
    pub open: bool,
    /// Line, from 1.
    pub line: usize,
}

/// A `service` block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobService {
    /// Label of the job.
    pub job: String,
    /// Label of the group.
    pub group: String,
    /// Label of the task, when the service stands inside one.
    pub task: Option<String>,
    /// Name of the service; Nomad's default when absent.
    pub name: String,
    /// Line of the block, from 1.
    pub line: usize,
    pub tags: Vec<JobTag>,
    pub canary_tags: Vec<JobTag>,
    /// Lines of tag lists that are not written out (a variable, a function).
    pub unread: Vec<usize>,
    /// Has a `check` block.
    pub has_check: bool,
    /// `shutdown_delay` is set on the group, or on the task.
    pub has_shutdown_delay: bool,
}

impl JobService {
    /// `job web, group app, service api`.
    #[must_use]
    pub(crate) fn place(&self) -> String {
        let task = self
            .task
            .as_ref()
            .map(|task| format!(", task {task}"))
            .unwrap_or_default();
        format!(
            "job {}, group {}{task}, service {}",
            self.job, self.group, self.name
        )
    }
}

/// A file that is not a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct JobError {
    /// Line, from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// Reads the services of a job file.
///
/// # Errors
/// When the text is not HCL, or holds no job.
pub(crate) fn services(text: &str) -> Result<Vec<JobService>, JobError> {
    let body: Body = text
        .parse()
        .map_err(|error: hcl_edit::parser::Error| JobError {
            line: Some(error.location().line()),
            problem: format!("is not valid HCL: {}", error.message().replace('\n', ", ")),
        })?;
    if !body.has_blocks("job") {
        return Err(JobError {
            line: None,
            problem: "holds no job block".to_owned(),
        });
    }
    let mut walk = Walk {
        text,
        found: Vec::new(),
    };
    for job in body.get_blocks("job") {
        for group in blocks(&job.body, "group") {
            walk.group(&label(job), group);
        }
    }
    Ok(walk.found)
}

struct Walk<'a> {
    text: &'a str,
    found: Vec<JobService>,
}

impl Walk<'_> {
    fn line(&self, span: Option<std::ops::Range<usize>>) -> usize {
        let before = self
            .text
            .as_bytes()
            .get(..span.map_or(0, |span| span.start))
            .unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn group(&mut self, job: &str, group: Labelled<'_>) {
        let delay = group.body.has_attribute("shutdown_delay");
        for service in blocks(group.body, "service") {
            self.service(job, &group.label, None, delay, service);
        }
        for task in blocks(group.body, "task") {
            let delay = delay || task.body.has_attribute("shutdown_delay");
            for service in blocks(task.body, "service") {
                self.service(job, &group.label, Some(task.label.clone()), delay, service);
            }
        }
    }

    fn service(
        &mut self,
        job: &str,
        group: &str,
        task: Option<String>,
        delay: bool,
        block: Labelled<'_>,
    ) {
        let name = block
            .body
            .get_attribute("name")
            .and_then(|attribute| text_of(&attribute.value));
        let default = || [job, group, task.as_deref().unwrap_or("group")].join("-");
        let mut service = JobService {
            name: name.map_or_else(default, |tag| tag.text),
            job: job.to_owned(),
            group: group.to_owned(),
            line: self.line(block.block.ident.span()),
            has_check: blocks(block.body, "check").next().is_some(),
            has_shutdown_delay: delay,
            task,
            ..JobService::default()
        };
        if let Some(attribute) = block.body.get_attribute("tags") {
            service.tags = self.tags(attribute, &mut service.unread);
        }
        if let Some(attribute) = block.body.get_attribute("canary_tags") {
            service.canary_tags = self.tags(attribute, &mut service.unread);
        }
        self.found.push(service);
    }

    fn tags(&self, attribute: &Attribute, unread: &mut Vec<usize>) -> Vec<JobTag> {
        let line = self.line(attribute.key.span());
        let mut tags = Vec::new();
        if !self.collect(&attribute.value, line, &mut tags) {
            unread.push(line);
        }
        tags
    }

    fn collect_all<'e>(
        &self,
        items: impl Iterator<Item = &'e Expression>,
        line: usize,
        tags: &mut Vec<JobTag>,
    ) -> bool {
        // Not `all`: what follows an open item is wanted too.
        items
            .map(|item| self.collect(item, line, tags))
            .fold(true, |all, whole| all & whole)
    }

    /// Collects every text written out in an expression; false when something else is in it. The
    /// parser limits the nesting, and with it this recursion.
    fn collect(&self, expression: &Expression, line: usize, tags: &mut Vec<JobTag>) -> bool {
        match expression {
            Expression::Array(items) => self.collect_all(items.iter(), line, tags),
            Expression::Parenthesis(inner) => self.collect(inner.inner(), line, tags),
            Expression::Conditional(either) => {
                let yes = self.collect(&either.true_expr, line, tags);
                self.collect(&either.false_expr, line, tags) && yes
            }
            Expression::FuncCall(call)
                if ["concat", "compact", "distinct", "flatten"]
                    .contains(&call.name.name.as_str()) =>
            {
                self.collect_all(call.args.iter(), line, tags)
            }
            other => match text_of(other) {
                Some(mut tag) => {
                    tag.line = other.span().map_or(line, |span| self.line(Some(span)));
                    tags.push(tag);
                    true
                }
                None => false,
            },
        }
    }
}

/// A block with its label; `dynamic "service" { content { … } }` counts as what it makes.
#[derive(Clone)]
struct Labelled<'a> {
    block: &'a Block,
    body: &'a Body,
    label: String,
}

fn label(block: &Block) -> String {
    block
        .labels
        .first()
        .map(|label| label.as_str().to_owned())
        .unwrap_or_default()
}

fn blocks<'a>(body: &'a Body, ident: &'a str) -> impl Iterator<Item = Labelled<'a>> {
    body.blocks().filter_map(move |block| {
        if block.has_ident(ident) {
            return Some(Labelled {
                block,
                body: &block.body,
                label: label(block),
            });
        }
        let dynamic = block.has_ident("dynamic") && label(block) == ident;
        let content = block
            .body
            .get_blocks("content")
            .next()
            .filter(|_| dynamic)?;
        Some(Labelled {
            block,
            body: &content.body,
            label: "(dynamic)".to_owned(),
        })
    })
}

/// The text of an expression that is one.
fn text_of(expression: &Expression) -> Option<JobTag> {
    let elements: Vec<&Element> = match expression {
        Expression::String(text) => {
            let (text, sample) = (text.as_str().to_owned(), text.as_str().to_owned());
            return Some(JobTag {
                text,
                sample,
                open: false,
                line: 0,
            });
        }
        Expression::StringTemplate(template) => template.iter().collect(),
        Expression::HeredocTemplate(heredoc) => heredoc.template.iter().collect(),
        _ => return None,
    };
    let mut tag = JobTag {
        text: String::new(),
        sample: String::new(),
        open: false,
        line: 0,
    };
    for element in elements {
        match element {
            Element::Literal(text) => {
                tag.text.push_str(text.as_str());
                tag.sample.push_str(text.as_str());
            }
            Element::Interpolation(part) => {
                tag.open = true;
                tag.text
                    .push_str(&format!("${{{}}}", part.expr.to_string().trim()));
                tag.sample.push('1');
            }
            Element::Directive(_) => {
                tag.open = true;
                tag.text.push_str("%{...}");
            }
        }
    }
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(tags: &[JobTag]) -> Vec<(&str, usize)> {
        tags.iter()
            .map(|tag| (tag.text.as_str(), tag.line))
            .collect()
    }

    #[test]
    fn services_of_groups_and_tasks_are_found() {
        let text = include_str!("../../tests/fixtures/jobs/good.nomad.hcl");
        let found = services(text).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].place(), "job shop, group web, service shop-web");
        assert_eq!(texts(&found[0].tags)[0].0, "urlprefix-shop.example.com/");
        assert_eq!(
            texts(&found[0].canary_tags)[0].0,
            "urlprefix-canary.shop.example.com/"
        );
        assert!(found[0].has_check && found[0].has_shutdown_delay && !found[0].tags[0].open);
        assert_eq!(
            found[1].place(),
            "job shop, group web, task app, service shop-admin-${NOMAD_DC}"
        );
        assert!(found[1].tags[0].open && found[1].has_shutdown_delay);
        assert_eq!(found[1].tags[0].text, "urlprefix-${NOMAD_META_host}/admin");
        assert_eq!(found[1].tags[0].sample, "urlprefix-1/admin");
        assert_eq!(found[2].unread.len(), 1);
        assert_eq!(texts(&found[2].tags)[0].0, "urlprefix-/static");
    }

    #[test]
    fn what_is_no_job_is_said_with_its_line() {
        let error = services("job \"a\" {\n  group \"b\" {\n").unwrap_err();
        assert!(error.problem.starts_with("is not valid HCL"), "{error:?}");
        assert!(error.line.is_some_and(|line| line >= 2), "{error:?}");
        assert_eq!(
            services("a = 1\n").unwrap_err().problem,
            "holds no job block"
        );
        assert!(services(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn dynamic_services_count() {
        let text = r#"job "j" { group "g" {
            dynamic "service" { for_each = [1]
              content {
                name = "s"
                tags = ["urlprefix-/a"]
              } } } }"#
            .replace("} } } }", "}\n}\n}\n}\n")
            .replace("{ for_each", "{\n for_each")
            .replace("{ group", "{\n group");
        let found = services(&text).unwrap();
        assert_eq!((found[0].name.as_str(), found[0].tags[0].line), ("s", 7));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,200}") {
            let _ = services(&text);
        }
    }
}
