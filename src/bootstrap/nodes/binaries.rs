//! Programs of a node: copied from this machine, or fetched by the node as a release archive.
//!
//! A program that runs cannot be written over, so the new one is made beside it and renamed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::channel::PATIENCE;
use super::command::{ShellCommand, some_word, word};
use super::host::Host;
use super::observe::program_of_this_machine;
use super::preflight::arch;
use super::release::Releases;
use super::script::quote;
use super::spec::BinarySpec;
use crate::bootstrap::topology::BinarySource;

/// How long a program may take to arrive at a node.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Puts the new program in the place of the old one. Takes `path`, `new`, `owner` (empty: left
/// alone).
const PLACE: &str = r#"
place() {
  chmod 755 "$new" || die "$path: cannot set its mode"
  [ -z "$owner" ] || chown "$owner:$owner" "$new" || die "$path: cannot give it to $owner"
  mv -f "$new" "$path" || die "$path: cannot rename $new"
}
"#;

/// Fetches an archive. Takes also `run`, `name`, `url`, `archive` (its SHA-256).
///
/// The note remembers of which archive a program is, for as long as the program stays what it is.
const FETCH: &str = r#"
note="$run/$name.release"
if [ -f "$path" ] && read -r of is <"$note" && [ "$of" = "$archive" ]; then
  if [ "$(sum "$path")" = "$is" ]; then echo "$is"; return 0; fi
fi 2>/dev/null
has curl || has wget || die "neither curl nor wget is there to fetch $url: install one of them"
has unzip || has python3 || die "neither unzip nor python3 is there to unpack $url: install one of them"
[ -d "$run" ] || mkdir -p "$run" || die "$run: cannot make it"
work="$run/$name.fetch"
rm -rf "$work"
mkdir "$work" || die "$work: cannot make it"
stop_() { rm -rf "$work" "$new"; die "$*"; }
if has curl; then curl -fsSL --retry 2 --connect-timeout 15 -o "$work/zip" "$url"
else wget -q -T 30 -O "$work/zip" "$url"; fi || stop_ "cannot fetch $url"
is=$(sum "$work/zip")
[ "$is" = "$archive" ] || stop_ "$url has the checksum $is, but its signed list says $archive: nothing was installed"
rm -f "$new"
if has unzip; then unzip -p "$work/zip" "$name" >"$new"
else
  python3 -c 'import sys, zipfile, shutil; shutil.copyfileobj(zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]), sys.stdout.buffer)' "$work/zip" "$name" >"$new"
fi || stop_ "$url: cannot unpack $name"
[ -s "$new" ] || stop_ "$url holds no $name"
rm -rf "$work"
is=$(sum "$new")
place
echo "$archive $is" >"$note.new" && mv -f "$note.new" "$note"
echo "$is"
"#;

impl Host {
    /// Installs a program unless it is there already; the SHA-256 of what is there now.
    ///
    /// # Errors
    /// When the program is for another processor, or a release archive is not what it ought to be;
    /// then nothing is installed.
    pub async fn install(&self, binary: &BinarySpec, releases: &Releases) -> Result<String> {
        match &binary.source {
            BinarySource::File(source) if self.local => {
                let seen = program_of_this_machine(&source.to_string_lossy()).await?;
                let seen = seen
                    .with_context(|| format!("{}: there is no such program", source.display()))?;
                if seen.mode & 0o111 == 0 {
                    bail!(
                        "{}: is not executable (mode {:o})",
                        source.display(),
                        seen.mode
                    );
                }
                Ok(seen.sha256)
            }
            BinarySource::File(source) => copy(self, binary, source).await,
            BinarySource::Release(version) => fetch(self, binary, version, releases).await,
        }
    }
}

/// Variables and functions for a script about a program.
fn about(host: &Host, binary: &BinarySpec) -> Result<String> {
    let owner = if host.local { "" } else { "root" };
    Ok(format!(
        "path={} new={} owner={}\n{PLACE}",
        quote(&binary.path),
        quote(&new_path(binary)?),
        quote(owner)
    ))
}

/// Where the new program is made, beside the old one.
fn new_path(binary: &BinarySpec) -> Result<String> {
    let (folder, name) = binary
        .path
        .rsplit_once('/')
        .with_context(|| format!("`{}` is not a path with a folder", binary.path))?;
    Ok(format!("{folder}/.{name}.lb-new"))
}

async fn copy(host: &Host, binary: &BinarySpec, source: &Path) -> Result<String> {
    let seen = program_of_this_machine(&source.to_string_lossy()).await?;
    let sum = seen
        .with_context(|| format!("{}: there is no such program", source.display()))?
        .sha256;
    let about = about(host, binary)?;
    let mut command = ShellCommand::new(&about);
    let processor = command.section("processor", "uname -m", some_word);
    let present = command.section("sum", "[ ! -f \"$path\" ] || sum \"$path\"", word);
    let output = command.run(&host.channel, PATIENCE).await?;
    if output.get(&present)?.as_ref() == Some(&sum) {
        return Ok(sum);
    }
    let mut file =
        File::open(source).with_context(|| format!("{}: cannot read it", source.display()))?;
    let mut head = Vec::new();
    std::io::Read::by_ref(&mut file)
        .take(20)
        .read_to_end(&mut head)?;
    let processor = output.get(&processor)?;
    if let Some(reason) = unfit(&head, arch(&processor)) {
        bail!(
            "{}: {} {reason}, but the node is {processor}: name one that fits",
            host.name,
            source.display()
        );
    }
    let file =
        File::open(source).with_context(|| format!("{}: cannot read it", source.display()))?;
    host.channel
        .copy(file, &new_path(binary)?, TRANSFER_PATIENCE)
        .await?;
    let place = format!(
        "{about}is=$(sum \"$new\")\n[ \"$is\" = {sum} ] || die \"$path: arrived with the checksum $is instead of {sum}\"\nplace"
    );
    host.channel.run(&place, PATIENCE).await?;
    Ok(sum)
}

async fn fetch(
    host: &Host,
    binary: &BinarySpec,
    version: &str,
    releases: &Releases,
) -> Result<String> {
    let mut command = ShellCommand::new("");
    let os = command.section("os", "uname -s", some_word);
    let processor = command.section("processor", "uname -m", some_word);
    let output = command.run(&host.channel, PATIENCE).await?;
    let (os, processor) = (output.get(&os)?.to_lowercase(), output.get(&processor)?);
    let archive = releases
        .archive(&binary.name, version, &os, arch(&processor))
        .await?;
    let mut command = ShellCommand::new(&format!(
        "{}run={} name={} url={} archive={}",
        about(host, binary)?,
        quote(&host.layout.run),
        quote(&binary.name),
        quote(&archive.url),
        quote(&archive.sha256),
    ));
    let sum = command.section("sum", FETCH, some_word);
    command
        .run(&host.channel, TRANSFER_PATIENCE)
        .await?
        .get(&sum)
}

/// Why a program does not run on this processor, if that can be told from its first bytes. Scripts
/// run anywhere.
fn unfit(head: &[u8], node: &str) -> Option<String> {
    if head.starts_with(b"#!") {
        return None;
    }
    if !head.starts_with(b"\x7fELF") {
        return Some("is not a Linux program".to_owned());
    }
    // e_machine, in the byte order that e_ident[EI_DATA] names (elf(5)).
    let (low, high) = (*head.get(18)?, *head.get(19)?);
    let machine = if head.get(5) == Some(&2) {
        u16::from_be_bytes([low, high])
    } else {
        u16::from_le_bytes([low, high])
    };
    let its = match machine {
        3 => "386",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        other => return Some(format!("is for another processor (ELF machine {other})")),
    };
    (its != node).then(|| format!("is for {its}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u8) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend([machine, 0]);
        head
    }

    #[test]
    fn a_program_for_another_processor_is_told() {
        assert_eq!(unfit(&elf(62), "amd64"), None);
        assert_eq!(unfit(&elf(183), "arm64"), None);
        assert_eq!(unfit(&elf(183), "amd64").unwrap(), "is for arm64");
        assert!(unfit(&elf(8), "amd64").unwrap().contains("machine 8"));
        assert_eq!(unfit(b"#!/bin/sh\n", "amd64"), None);
        assert_eq!(
            unfit(b"\xcf\xfa\xed\xfe Mach-O", "arm64").unwrap(),
            "is not a Linux program"
        );
        assert!(unfit(b"", "amd64").is_some());
        let mut big = elf(0);
        big[5] = 2;
        big[19] = 62;
        assert_eq!(unfit(&big, "amd64"), None);
    }
}
