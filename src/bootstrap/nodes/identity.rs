//! What a node's daemons are known by to the others, in files of their data folders: ids of agents
//! and clients, and the keys of Nomad's servers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::channel::PATIENCE;
use super::command::ShellCommand;
use super::files::{DIRECTORY, PUT};
use super::host::Host;
use super::script::{document, quote};
use super::spec::{NodeSpec, Owner};
use crate::bootstrap::topology::Product;

/// Consul's agents: `node-id`. Nomad's clients: id and its proof. Nomad's servers before 1.9 keep the
/// keys of variables and workload identities in files; later ones keep them in their snapshots.
const READ: &str = r#"
tell() { [ ! -f "$2" ] || echo "$1 $(base64 <"$2" | tr -d '\n')"; }
tell consul/node-id "$consul/node-id"
tell nomad/client/client-id "$nomad/client/client-id"
tell nomad/client/secret-id "$nomad/client/secret-id"
for file in "$nomad"/server/keystore/*.nks.json; do
  tell "nomad/server/keystore/${file##*/}" "$file"
done
"#;

impl Host {
    /// Files that the node is known by, as far as they are there: by names that begin with the
    /// product's.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn identity(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let setup = format!(
            "consul={} nomad={}",
            quote(&self.layout.consul_data),
            quote(&self.layout.nomad_data)
        );
        let mut command = ShellCommand::new(&setup);
        let files = command.section("identity", READ, files);
        command.run(&self.channel, PATIENCE).await?.get(&files)
    }

    /// Gives the node those of these files that it does not have; folders are made as needed. To be
    /// done before its daemons are started for the first time.
    ///
    /// # Errors
    /// When the node is not reached, or a name is not one that [`Host::identity`] gives.
    pub async fn put_identity(
        &self,
        spec: &NodeSpec,
        files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<()> {
        self.ensure_users(&spec.users).await?;
        self.ensure_directories(&spec.directories).await?;
        let mut script = format!("{PUT}\n{DIRECTORY}\n");
        for (name, content) in files {
            let (product, below) = product_of(name)
                .with_context(|| format!("{}: `{name}` is not a file of a node", self.name))?;
            let data = self.layout.data(product);
            let owner = spec.directories.iter().find(|dir| dir.path == data);
            let owner = self.owner(owner.map_or(Owner::Root, |dir| dir.owner));
            let mut folder = data.to_owned();
            let (folders, _) = below.rsplit_once('/').unwrap_or_default();
            for part in folders.split('/').filter(|part| !part.is_empty()) {
                let _ = write!(folder, "/{part}");
                let path = quote(&folder);
                let _ = writeln!(script, "[ -d {path} ] || dir {path} 700 {owner}");
            }
            let path = quote(&format!("{data}/{below}"));
            let _ = write!(
                script,
                "[ -e {path} ] || put {path} 600 {owner} {}",
                document(content)
            );
        }
        script.push_str("return 0\n");
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Puts the file into the data of a running server that allows another bootstrap of its ACLs,
    /// as its user, which removes it.
    ///
    /// # Errors
    /// When the node is not reached, or has no such server.
    pub async fn allow_bootstrap(
        &self,
        spec: &NodeSpec,
        product: Product,
        reset_index: u64,
    ) -> Result<()> {
        let data = self.layout.data(product);
        let owner = spec.directories.iter().find(|dir| dir.path == data);
        let owner = self.owner(owner.map_or(Owner::Root, |dir| dir.owner));
        let path = quote(&self.layout.acl_reset_file(product));
        let content = document(reset_index.to_string().as_bytes());
        let script = format!("{PUT}\nput {path} 600 {owner} {content}return 0\n");
        self.channel.run(&script, PATIENCE).await.map(drop)
    }
}

/// The product, and the path below its data folder. None: not a name of a file that a node is known
/// by.
fn product_of(name: &str) -> Option<(Product, &str)> {
    let (product, below) = name.split_once('/')?;
    let product = Product::ALL
        .into_iter()
        .find(|candidate| candidate.name() == product)?;
    let is_key = |name: &str| {
        let id = name.strip_suffix(".nks.json");
        id.is_some_and(|id| {
            !id.is_empty()
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        })
    };
    let is_known = match (product, below) {
        (Product::Consul, "node-id")
        | (Product::Nomad, "client/client-id" | "client/secret-id") => true,
        (Product::Nomad, _) => below.strip_prefix("server/keystore/").is_some_and(is_key),
        _ => false,
    };
    is_known.then_some((product, below))
}

fn files(lines: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for line in lines {
        let Some((name, content)) = line.split_once(' ') else {
            bail!("`{line}` is not a name and its content");
        };
        // The content may be a key: it is not quoted.
        let content = STANDARD.decode(content).ok();
        let content = content.with_context(|| format!("{name} is not base64"))?;
        if product_of(name).is_some() {
            found.insert(name.to_owned(), content);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bootstrap::topology::Layout;

    #[tokio::test]
    async fn a_new_node_gets_what_the_old_one_was_known_by() {
        let dir = tempfile::tempdir().unwrap();
        let host = |name: &str| Host {
            layout: Layout::below(&dir.path().join(name).to_string_lossy()),
            local: true,
            ..Host::example()
        };
        let (old, new) = (host("old"), host("new"));
        assert_eq!(old.identity().await.unwrap(), BTreeMap::new());
        let write = |host: &Host, product, name: &str, text: &str| {
            let path = format!("{}/{name}", host.layout.data(product));
            fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&old, Product::Consul, "node-id", "one\n");
        write(&old, Product::Consul, "raft/raft.db", "large");
        write(&old, Product::Nomad, "client/client-id", "two");
        write(&old, Product::Nomad, "client/secret-id", "three");
        write(
            &old,
            Product::Nomad,
            "server/keystore/k-1.aead.nks.json",
            "{\"a\": 1}",
        );
        let identity = old.identity().await.unwrap();
        let names: Vec<_> = identity.keys().map(String::as_str).collect();
        let expected = [
            "consul/node-id",
            "nomad/client/client-id",
            "nomad/client/secret-id",
            "nomad/server/keystore/k-1.aead.nks.json",
        ];
        assert_eq!(names, expected);
        // What is there already stays.
        write(&new, Product::Nomad, "client/client-id", "own");
        fs::create_dir_all(&new.layout.consul_data).unwrap();
        let spec = NodeSpec::default();
        new.put_identity(&spec, &identity).await.unwrap();
        let mut after = identity.clone();
        after.insert("nomad/client/client-id".to_owned(), b"own".to_vec());
        assert_eq!(new.identity().await.unwrap(), after);
        let strange = BTreeMap::from([("consul/../../x".to_owned(), Vec::new())]);
        assert!(new.put_identity(&spec, &strange).await.is_err());
    }

    #[test]
    fn other_files_are_not_put_anywhere() {
        for name in [
            "consul/raft/raft.db",
            "nomad/server/keystore/../x.nks.json",
            "nomad/server/keystore/.nks.json",
            "nomad/client/state.db",
            "vault/node-id",
            "node-id",
            "",
        ] {
            assert_eq!(product_of(name), None, "{name}");
        }
    }
}
