//! What is left on a node once its daemons are stopped: the tasks of a Nomad client, its mounts,
//! and data.
//!
//! Nomad's tasks outlive their agent on purpose. Each runs below a process `nomad executor
//! {…"<data>/alloc/…"…}`, or, should that be dead, still has its working folder below the data
//! folder. `nomad logmon` holds pipes there.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::channel::PATIENCE;
use super::command::{ShellCommand, number};
use super::daemons;
use super::files::UNITS;
use super::host::{Host, MARK};
use super::resolver::{FORGET, RESOLVER_FILE};
use super::script::{quote, quote_all};
use crate::bootstrap::topology::{Product, Runner};

/// What [`Host::wipe`](super::Host::wipe) removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wipe {
    /// The data of one product, and the stamps of its daemon. Its configuration stays.
    Data(Product),
    /// Configuration, data, notes, units and lb's folder. Programs and users stay.
    Everything,
}

/// Takes `data` and `rounds` of 0.1 s. Prints how many processes it ended.
///
/// `left` prints a line `KIND PID` for each process: the tasks, which end first, then their
/// executors, which only then have nothing to report. The shell and its own children are not
/// descendants of an executor.
const TASKS: &str = r#"
processes() {
  { grep -aH '' /proc/[0-9]*/stat; grep -aH '' /proc/[0-9]*/cmdline | tr '\0' ' '; } 2>/dev/null
}
holds() { ls -l "/proc/$1/fd" 2>/dev/null | grep -qF " $data/"; }
inside() { ls -ld /proc/[0-9]*/cwd 2>/dev/null | grep -F -- "-> $data/" | sed 's|^.* /proc/\([0-9]*\)/cwd -> .*$|task \1|'; }
left() {
  { found; inside; } | awk '!seen[$2]++'
}
found() {
  processes | data="$data" awk '
    { pid = $0; sub(/^\/proc\//, "", pid); sub(/\/.*/, "", pid); line = $0; sub(/^[^:]*:/, "", line) }
    index($0, "/proc/" pid "/stat:") == 1 {
      sub(/^.*\) [A-Za-z] /, "", line)
      split(line, word, " ")
      parent[pid] = word[1]
      order[++count] = pid
      next
    }
    index(line, ENVIRON["data"] "/") && line ~ / executor / { executor[pid] = 1; print "executor", pid }
    line ~ / logmon( |$)/ { print "logmon", pid; logmon[pid] = 1 }
    END {
      for (n = 1; n <= count; n++) {
        pid = order[n]
        if (executor[pid] || logmon[pid]) continue
        above = pid
        for (depth = 0; depth < 64 && above > 1 && !executor[above]; depth++) above = parent[above]
        if (executor[above]) print "task", pid
      }
    }' | while read -r kind pid; do
      case $kind in
        logmon) if holds "$pid"; then echo "executor $pid"; fi ;;
        *) echo "$kind $pid" ;;
      esac
    done
}
of() { left | sed -n "s/^$1 //p"; }
send() { for pid in $2; do kill -"$1" "$pid" 2>/dev/null; done; }
count=$(left | wc -l)
end() {
  n=0
  while :; do
    pids=$(of "$1")
    [ -n "$pids" ] || return 0
    if [ $n -eq 0 ]; then send "$2" "$pids"; fi
    if [ $n -eq $((rounds / 2)) ]; then send TERM "$pids"; fi
    if [ $n -ge "$rounds" ]; then send KILL "$pids"; fi
    [ $n -lt $((rounds + 50)) ] || die "processes survive SIGKILL:" $pids
    n=$((n + 1))
    sleep 0.1
  done
}
end task INT
end executor TERM
echo $((count))
"#;

/// Unmounts all below `data`, deepest first, and says what stays.
const UNMOUNT: &str = r#"
mounted() { sed 's/\\040/ /g' /proc/mounts 2>/dev/null | awk -v below=" $data/" 'index($0, below) { sub(/^[^ ]* /, ""); sub(/ [^ ]+ [^ ]+ [0-9]+ [0-9]+$/, ""); print }'; }
mounted | sort -r | while IFS= read -r point; do umount "$point" 2>/dev/null || umount -l "$point" 2>/dev/null; done
stays=$(mounted)
[ -z "$stays" ] || die "cannot unmount" $stays
"#;

impl Host {
    /// Ends the tasks that a stopped Nomad client left running, and unmounts what it mounted below
    /// its data folder. How many processes it ended.
    ///
    /// # Errors
    /// When the node is not reached, or a process survives SIGKILL, or something cannot be
    /// unmounted.
    pub async fn stop_tasks(&self, patience: Duration) -> Result<usize> {
        let data = quote(&self.layout.nomad_data);
        let rounds = patience.as_millis() / 100;
        let mut command = ShellCommand::new(&format!("data={data} rounds={rounds}"));
        let ended = command.section("ended", &format!("{TASKS}\n{UNMOUNT}"), |lines| {
            number(lines)?.context("it is empty")
        });
        command
            .run(&self.channel, patience * 4 + PATIENCE)
            .await?
            .get(&ended)
    }

    /// Removes what the cluster left on the node. The daemons must be stopped.
    ///
    /// # Errors
    /// When a daemon still runs, something is mounted below the data folder, or the node does not
    /// carry our mark.
    pub async fn wipe(&self, what: Wipe) -> Result<()> {
        let layout = &self.layout;
        let mut script = format!(
            "run={}\n{}\n\
         empty() {{ [ ! -d \"$1\" ] || find \"$1\" -mindepth 1 -maxdepth 1 -exec rm -rf {{}} + || die \"$1: cannot be emptied\"; }}\n\
         gone() {{ data=$1; [ -d \"$1\" ] || return 0\n{UNMOUNT}\n}}\n",
            quote(&layout.run),
            daemons::RUNNING,
        );
        let products: &[Product] = match &what {
            Wipe::Data(product) => std::slice::from_ref(product),
            Wipe::Everything => &[Product::Consul, Product::Nomad],
        };
        // Without a mark the folders are either empty or not this cluster's.
        let all = products
            .iter()
            .flat_map(|&product| [layout.config(product), layout.data(product)]);
        script.push_str(&format!(
        "if [ ! -s \"$run/{MARK}\" ]; then\n\
           for d in {}; do [ -z \"$(ls -A \"$d\" 2>/dev/null)\" ] || \
           die \"$d: holds data, but $run/{MARK} is missing: it may not be ours, so it is not removed\"; done\n\
           return 0\nfi\n",
        quote_all(all)
    ));
        for &product in products {
            script.push_str(&format!(
            "pid=$({})\n[ -z \"$pid\" ] || die \"{product} still runs (pid $pid): it must be stopped first\"\n",
            daemons::print_pid(self, product)
        ));
        }
        for &product in products {
            let data = quote(layout.data(product));
            script.push_str(&format!(
            "gone {data}\nempty {data}\nrm -f \"$run/{product}.restart\" \"$run/{product}.reload\"\n"
        ));
        }
        if what == Wipe::Everything {
            let folders = [
                &layout.consul_config,
                &layout.consul_data,
                &layout.nomad_config,
                &layout.nomad_data,
                &layout.lb,
            ];
            // Nomad makes this one beside its data, and empties it itself.
            let parent = layout
                .nomad_data
                .rsplit_once('/')
                .map_or("", |(parent, _)| parent);
            let mounts = quote(&format!("{parent}/alloc_mounts"));
            script.push_str(&format!("rmdir {mounts} 2>/dev/null\n"));
            if let Some(units) = &layout.units {
                let paths: Vec<String> =
                    UNITS.iter().map(|unit| format!("{units}/{unit}")).collect();
                let paths = quote_all(paths.iter().map(String::as_str));
                if self.runner == Runner::Systemd {
                    let names = UNITS[..2].join(" ");
                    // Of drop-ins, of what `systemctl set-property` wrote, and of masks.
                    let folders: Vec<String> = [units.as_str(), "/run/systemd/system"]
                        .iter()
                        .flat_map(|folder| {
                            UNITS.iter().flat_map(move |unit| {
                                [
                                    format!("{folder}/{unit}.d"),
                                    format!("{folder}.control/{unit}.d"),
                                ]
                            })
                        })
                        .collect();
                    let folders = quote_all(folders.iter().map(String::as_str));
                    script.push_str(&format!(
                        "if [ -e {RESOLVER_FILE} ]; then rm -f {RESOLVER_FILE}; {FORGET}fi\n"
                    ));
                    script.push_str(&format!(
                        "systemctl disable -q {names} 2>/dev/null\n\
                         systemctl unmask -q --runtime {names} 2>/dev/null\n\
                         rm -f {paths}\nrm -rf {folders}\nsystemctl daemon-reload\n\
                         systemctl reset-failed -q {names} 2>/dev/null\n"
                    ));
                } else {
                    script.push_str(&format!("rm -f {paths}\n"));
                }
            }
            // Our notes last: until then, a wipe that was cut off can be taken up.
            let folders = quote_all(folders.into_iter().map(String::as_str));
            script.push_str(&format!(
                "rm -rf {folders} && rm -rf \"$run\" || die 'not all could be removed'\n"
            ));
        }
        self.channel.run(&script, PATIENCE * 2).await.map(drop)
    }
}
