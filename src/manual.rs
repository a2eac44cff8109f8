//! `lb man`: one manual page with the commands, every configuration key, the environment and the
//! exit codes.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli;
use crate::config::keys::{SECTIONS, Shape, env_name};

const REST: &str = r#".SH ENVIRONMENT
Every key is a variable as shown above; flags win over variables, variables over the file. CONSUL_HTTP_ADDR,
CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY,
CONSUL_TLS_SERVER_NAME, CONSUL_HTTP_AUTH, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, CONSUL_NAMESPACE and
CONSUL_PARTITION are read as Consul's own tools read them, below the LB_ variables. Where a [nomad] section, a flag or an
LB_NOMAD_ variable turns that source on, NOMAD_ADDR, NOMAD_UNIX_ADDR, NOMAD_CACERT, NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY,
NOMAD_TLS_SERVER_NAME, NOMAD_TOKEN, NOMAD_REGION and NOMAD_NAMESPACE fill what nothing else has set. HTTP_PROXY and its like are not used. NO_COLOR turns colours off.
.SH "EXIT STATUS"
.TP
0
Done.
.TP
1
Failed at run time.
.TP
2
Wrong usage or configuration.
.TP
3
It differs, or is degraded.
"#;

/// The page, in roff.
///
/// # Errors
/// Never in practice: the page is written to memory.
pub fn page() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(cli::Cli::command()).render(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    // The keys of `run` and `check` have a section of their own below.
    for sub in cli::Cli::command()
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
    {
        page.extend_from_slice(section(sub.get_name(), sub).as_bytes());
        for below in sub.get_subcommands() {
            page.extend_from_slice(
                section(&format!("{} {}", sub.get_name(), below.get_name()), below).as_bytes(),
            );
        }
    }
    page.extend_from_slice(keys().as_bytes());
    page.extend_from_slice(REST.as_bytes());
    Ok(page)
}

/// A command, what it does, and its flags.
fn section(name: &str, command: &Command) -> String {
    let about = command
        .get_long_about()
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    let usage = command
        .clone()
        .bin_name(format!("lb {name}"))
        .render_usage()
        .to_string()
        .replace("Usage: ", "");
    let mut out = format!(
        ".SS \"{}\"\n{}\n.PP\n{}\n",
        escape(name),
        escape(&usage),
        escape(&about)
    );
    for arg in command.get_opts() {
        let value = arg
            .get_value_names()
            .filter(|_| arg.get_action().takes_values())
            .map(|names| names.join(" "));
        let flag = format!(
            "--{} {}",
            arg.get_long().unwrap_or_default(),
            value.unwrap_or_default()
        );
        let help = arg
            .get_long_help()
            .or(arg.get_help())
            .map(ToString::to_string)
            .unwrap_or_default();
        out.push_str(&format!(
            ".TP\n\\fB{}\\fR\n{}\n",
            escape(flag.trim_end()),
            escape(&help)
        ));
    }
    out
}

fn keys() -> String {
    let mut out = ".SH \"CONFIGURATION KEYS\"\n".to_owned();
    for section in SECTIONS {
        let head = match section.shape {
            Shape::Top => "At the top of the file".to_owned(),
            Shape::Once => format!("[{}]", section.name),
            Shape::List => format!("[[{}]]", section.name),
            Shape::Named => format!("[{}.NAME]", section.name),
        };
        out.push_str(&format!(
            ".SS \"{}\"\n{}\n",
            escape(&head),
            escape(section.doc)
        ));
        for key in section.keys {
            let path = section.path(key);
            let default = key
                .default
                .filter(|text| !text.is_empty())
                .map(|text| format!(" Default: {text}."));
            let (name, env) = (escape(&path), escape(&env_name(&path)));
            let text = escape(&format!("{}{}", key.doc, default.unwrap_or_default()));
            out.push_str(&format!(".TP\n\\fB{name}\\fR, {env}\n{text}\n"));
        }
    }
    out
}

/// Text as roff shows it: no escape, and no line that looks like a request.
fn escape(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace('\\', "\\e");
        if line.starts_with(['.', '\'']) {
            format!("\\&{line}")
        } else {
            line
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_command_is_on_the_page() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for section in SECTIONS {
            for key in section.keys {
                let path = section.path(key);
                assert!(page.contains(&format!("\\fB{path}\\fR")), "{path}");
            }
        }
        for sub in cli::command()
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
        {
            assert!(
                page.contains(&format!(".SS \"{}\"", sub.get_name())),
                "{}",
                sub.get_name()
            );
            for below in sub.get_subcommands() {
                let name = format!("{} {}", sub.get_name(), below.get_name());
                assert!(
                    page.contains(&format!(".SS \"{name}\"\nlb {name}")),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn flags_of_commands_are_on_the_page() {
        let page = String::from_utf8(page().unwrap()).unwrap();
        for flag in ["--consul-bin FILE", "--acl", "--purge", "--with-sample"] {
            assert!(page.contains(&format!("\\fB{flag}\\fR")), "{flag}");
        }
    }

    #[test]
    fn text_cannot_become_a_request() {
        assert_eq!(escape(".TH\n'x\n\\n"), "\\&.TH\n\\&'x\n\\en");
    }
}
