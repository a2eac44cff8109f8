//! The state folder as a backup holds it: its files taken out, and put into place; and the note of a
//! restore that is not over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{RESTORING, Restoring, State, Tokens, folder, records};
use crate::bootstrap::topology::Product;

/// What is in no backup: locks, the note of a restore, and what local nodes keep here.
const LEFT_OUT: [&str; 4] = ["lock", "foreground", RESTORING, "nodes"];

impl State {
    /// All that a backup holds of the folder, by names relative to it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn copied_files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut pending = vec![String::new()];
        while let Some(folder) = pending.pop() {
            let path = self.path(&folder);
            let place = || format!("cannot read {}", path.display());
            for entry in fs::read_dir(&path).with_context(place)? {
                let entry = entry.with_context(place)?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                let is_left_out = folder.is_empty() && LEFT_OUT.contains(&&*name);
                if is_left_out || name.ends_with(folder::UNFINISHED) {
                    continue;
                }
                let name = match folder.is_empty() {
                    true => name,
                    false => format!("{folder}/{name}"),
                };
                let kind = entry.file_type().with_context(place)?;
                if kind.is_dir() {
                    pending.push(name);
                } else if kind.is_file()
                    && let Some(content) = self.folder.read_bytes(&name)?
                {
                    found.insert(name, content);
                }
            }
        }
        Ok(found)
    }

    /// Makes a state folder of a backup's files beside the place that it is for: [`State::put_in_place`]
    /// follows. What a run left there that was killed is removed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn stage(
        place: &Path,
        files: &BTreeMap<String, Vec<u8>>,
        restoring: &Restoring,
    ) -> Result<Self> {
        Self::unstage(place)?;
        let mut state = Self::create(&stage(place))?;
        for (name, content) in files {
            state.folder.write(name, content)?;
        }
        state.save_restoring(restoring)?;
        Ok(state)
    }

    /// Removes what was staged, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed, or is not a state folder.
    pub fn unstage(place: &Path) -> Result<()> {
        match Self::open(&stage(place))? {
            Some(left) => left.remove(),
            None => Ok(()),
        }
    }

    /// Gives a staged folder its place. What is there is moved aside; where to.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn put_in_place(self, place: &Path) -> Result<Option<PathBuf>> {
        let mut aside = None;
        if fs::symlink_metadata(place).is_ok() {
            let to = (1..)
                .map(|number| beside(place, &format!(".before-restore-{number}")))
                .find(|to| fs::symlink_metadata(to).is_err())
                .context("no name like NAME.before-restore-1 is free")?;
            fs::rename(place, &to)
                .with_context(|| format!("cannot move {} aside", place.display()))?;
            aside = Some(to);
        }
        fs::rename(self.dir(), place).with_context(|| {
            format!(
                "cannot rename {} to {}",
                self.dir().display(),
                place.display()
            )
        })?;
        if let Some(parent) = place.parent() {
            folder::sync(parent)?;
        }
        Ok(aside)
    }

    /// The restore that is under way, if one is.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn restoring(&self) -> Result<Option<Restoring>> {
        self.record(RESTORING)
    }

    /// Notes how far a restore is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_restoring(&mut self, restoring: &Restoring) -> Result<()> {
        self.save(RESTORING, restoring)
    }

    /// Notes that the restore is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_restoring(&mut self) -> Result<()> {
        self.folder.remove(RESTORING)
    }

    /// Takes over the tokens that a product's snapshot holds.
    ///
    /// # Errors
    /// When the backup's cannot be read, or ours cannot be written.
    pub fn take_tokens(
        &mut self,
        product: Product,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<()> {
        let Some(backup) = tokens_of(files)? else {
            return Ok(());
        };
        let mut tokens = self.tokens()?;
        tokens.take_over(product, backup);
        self.save_tokens(&tokens)
    }
}

/// The tokens in a backup's files.
///
/// # Errors
/// When they cannot be read.
pub fn tokens_of(files: &BTreeMap<String, Vec<u8>>) -> Result<Option<Tokens>> {
    let Some(bytes) = files.get(super::TOKENS) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes).ok().context("is not text");
    let tokens = text.and_then(records::parse);
    tokens
        .map(Some)
        .with_context(|| format!("{} of the backup", super::TOKENS))
}

fn stage(place: &Path) -> PathBuf {
    beside(place, ".restoring")
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    place.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::bootstrap::security::secrets::Secret;
    use crate::bootstrap::state::tests::full;
    use crate::bootstrap::state::{Token, Tokens};

    fn token(secret: &str) -> Option<Token> {
        Some(Token {
            accessor: format!("{secret}-id"),
            secret: Secret::new(secret),
        })
    }

    #[test]
    fn a_state_folder_comes_back_as_it_was() {
        let (folder, state, cluster) = full();
        fs::create_dir_all(state.path("nodes/a/consul")).unwrap();
        fs::write(state.path("nodes/a/consul/node-id"), "1").unwrap();
        fs::write(state.path("env.new"), "half").unwrap();
        let files = state.copied_files().unwrap();
        assert!(
            files.contains_key("ca-key.pem") && files.contains_key("certs/consul-0/consul.pem")
        );
        let strange = |name: &&String| {
            LEFT_OUT.iter().any(|left| name.starts_with(left)) || name.ends_with(".new")
        };
        assert_eq!(files.keys().find(strange), None);
        let applied = state.cluster().unwrap();
        let (pairs, place) = (state.pairs(&cluster).unwrap(), state.dir().to_owned());
        drop(state);

        let restoring = Restoring::new("b".into(), "/backups".into(), UNIX_EPOCH);
        // Twice: the first was killed before it was put in place.
        State::stage(&place, &files, &restoring).unwrap();
        State::unstage(&place).unwrap();
        assert!(!stage(&place).exists());
        State::stage(&place, &files, &restoring).unwrap();
        let staged = State::stage(&place, &files, &restoring).unwrap();
        let aside = staged.put_in_place(&place).unwrap().unwrap();
        assert_eq!(aside, folder.path().join("state.before-restore-1"));
        assert!(aside.join("nodes/a/consul/node-id").exists() && !place.join("nodes").exists());
        let mut state = State::open(&place).unwrap().unwrap();
        assert!(state.notes().is_empty(), "modes: {:?}", state.notes());
        let mode = fs::metadata(state.path("certs/lb-key.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(state.copied_files().unwrap(), files);
        assert_eq!(
            (state.cluster().unwrap(), state.pairs(&cluster).unwrap()),
            (applied, pairs)
        );
        assert_eq!(state.restoring().unwrap(), Some(restoring));
        state.end_restoring().unwrap();
        assert_eq!(state.restoring().unwrap(), None);
    }

    #[test]
    fn tokens_are_taken_over_product_by_product() {
        let (_folder, mut state, _) = full();
        let with = |word: &str| Tokens {
            consul_management: token(&format!("{word}-consul")),
            nomad_management: token(&format!("{word}-nomad")),
            lb: token(&format!("{word}-lb")),
            nomad_operator: token(&format!("{word}-operator")),
            ..Tokens::default()
        };
        let mut old = with("old");
        old.agents
            .extend([("a".to_owned(), token("old-a").unwrap())]);
        let mut new = with("new");
        new.agents
            .extend([("b".to_owned(), token("new-b").unwrap())]);
        state.save_tokens(&old).unwrap();
        let files = state.copied_files().unwrap();
        state.save_tokens(&new).unwrap();
        state.take_tokens(Product::Consul, &files).unwrap();
        let found = state.tokens().unwrap();
        assert_eq!(
            (&found.lb, &found.nomad_management),
            (&old.lb, &new.nomad_management)
        );
        // A node that came later has its own.
        assert_eq!(found.agents.keys().collect::<Vec<_>>(), ["a", "b"]);
        state.take_tokens(Product::Nomad, &files).unwrap();
        assert_eq!(state.tokens().unwrap().nomad_operator, old.nomad_operator);
        // Without ACLs there is nothing to take.
        state.take_tokens(Product::Nomad, &BTreeMap::new()).unwrap();
        let damaged = BTreeMap::from([("tokens.json".to_owned(), b"hush".to_vec())]);
        let error = state.take_tokens(Product::Nomad, &damaged).unwrap_err();
        assert!(!format!("{error:#}").contains("hush"), "{error:#}");
    }
}
