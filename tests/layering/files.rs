//! Which file of a crate names which: paths are followed to the file in which the thing is defined.
//!
//! ```text
//! file ─► code ─► imports (alias ─► path) ─┐
//!              └► other paths ─────────────┴─► path from the root ─► file, through the re-exports of faces
//! ```
//! A text scan, no compiler: methods of a type that stand in another file than the type are not
//! seen, and neither is what a macro makes up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::text::{code, identifier, is_of_word, test_modules};

/// A path from the root of the crate, without `crate`.
type ModulePath = Vec<String>;

/// The files of a crate and the arrows between them.
pub(crate) struct Files {
    /// By module path. A face is `mod.rs`, or the file beside the folder of the same name.
    files: BTreeMap<ModulePath, File>,
}

struct File {
    /// Path as shown.
    shown: String,
    /// Names that `use` brings in.
    imports: BTreeMap<String, Import>,
    /// Modules of which `use` brings in everything.
    globs: Vec<ModulePath>,
    /// What is defined here, outside of every brace.
    defined: BTreeSet<String>,
    /// Names of fields and arguments: they hide what a glob brings in.
    locals: BTreeSet<String>,
    /// The code without its `use` items.
    body: String,
}

/// What a `use` means by a name.
#[derive(Clone, Debug, PartialEq)]
struct Import {
    /// None: a thing of another crate.
    path: Option<ModulePath>,
    /// Passed on to others (`pub use`).
    is_passed_on: bool,
}

impl Files {
    /// Reads the crate whose modules lie in `folder`; files are shown relative to `shown_from`.
    pub(crate) fn read(folder: &Path, shown_from: &Path, paths: &[std::path::PathBuf]) -> Self {
        let texts = paths.iter().map(|path| {
            let shown = path
                .strip_prefix(shown_from)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            let inside = path
                .strip_prefix(folder)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            (inside, shown, fs::read_to_string(path).unwrap())
        });
        Self::of(texts.collect())
    }

    /// The same of texts: path in the crate, path as shown, text.
    pub(crate) fn of(texts: Vec<(String, String, String)>) -> Self {
        let is_library = texts.iter().any(|(inside, ..)| inside == "lib.rs");
        // The binary beside a library is a crate of its own.
        let texts = texts
            .into_iter()
            .filter(|(inside, ..)| !(is_library && inside == "main.rs"));
        let texts: BTreeMap<ModulePath, (String, String)> = texts
            .map(|(inside, shown, text)| (module_path(&inside), (shown, text)))
            .collect();
        let tests: Vec<ModulePath> = texts
            .iter()
            .flat_map(|(module, (_, text))| {
                test_modules(text)
                    .into_iter()
                    .map(|name| below(module, &name))
            })
            .collect();
        let is_test = |module: &ModulePath| tests.iter().any(|test| module.starts_with(test));
        let modules: BTreeSet<ModulePath> = texts
            .keys()
            .filter(|module| !is_test(module))
            .cloned()
            .collect();
        let files = texts
            .into_iter()
            .filter(|(module, _)| modules.contains(module));
        let files = files.map(|(module, (shown, text))| {
            let file = File::new(&module, shown, &code(&text), &modules);
            (module, file)
        });
        Self {
            files: files.collect(),
        }
    }

    /// Modules at the root of the crate.
    pub(crate) fn roots(&self) -> BTreeSet<&str> {
        self.files
            .keys()
            .filter_map(|module| module.first())
            .map(String::as_str)
            .collect()
    }

    /// Sets of files that name each other in a circle, whatever way round, among those of one
    /// module at the root; none: among all.
    pub(crate) fn circles(&self, root: Option<&str>) -> Vec<BTreeSet<&str>> {
        let within =
            |module: &ModulePath| root.is_none() || module.first().map(String::as_str) == root;
        let arrows: BTreeMap<&str, BTreeSet<&str>> = self
            .files
            .iter()
            .filter(|(module, _)| within(module))
            .map(|(module, file)| {
                let named = self
                    .named_by(module)
                    .into_iter()
                    .filter(|named| within(named));
                (
                    file.shown.as_str(),
                    named
                        .map(|named| self.files[named].shown.as_str())
                        .collect(),
                )
            })
            .collect();
        let reached: BTreeMap<&str, BTreeSet<&str>> = arrows
            .keys()
            .map(|file| (*file, reachable(file, &arrows)))
            .collect();
        let mut circles: Vec<BTreeSet<&str>> = Vec::new();
        for (file, others) in &reached {
            let circle: BTreeSet<&str> = others
                .iter()
                .copied()
                .filter(|other| reached[other].contains(file))
                .collect();
            if circle.len() > 1 && !circles.contains(&circle) {
                circles.push(circle);
            }
        }
        circles
    }

    /// Arrows between the files of one circle, for people who want to open it.
    pub(crate) fn arrows_within(&self, circle: &BTreeSet<&str>) -> Vec<String> {
        let inside = self
            .files
            .iter()
            .filter(|(_, file)| circle.contains(file.shown.as_str()));
        inside
            .flat_map(|(module, file)| {
                let named = self
                    .named_by(module)
                    .into_iter()
                    .map(|named| self.files[named].shown.as_str());
                let named: Vec<&str> = named.filter(|named| circle.contains(named)).collect();
                named
                    .into_iter()
                    .map(move |named| format!("{} names {named}", file.shown))
            })
            .collect()
    }

    /// The modules whose files define what the file of this module names; itself left out.
    fn named_by(&self, module: &ModulePath) -> BTreeSet<&ModulePath> {
        let file = &self.files[module];
        let mut paths: Vec<ModulePath> = Vec::new();
        // An import counts even where its name is not seen again: a trait is used by its methods.
        paths.extend(
            file.imports
                .values()
                .filter(|import| !import.is_passed_on)
                .filter_map(|one| one.path.clone()),
        );
        for path in paths_in(&file.body) {
            paths.extend(self.absolute(module, file, path));
        }
        let named = paths.iter().filter_map(|path| self.definer(path, 0));
        named.filter(|named| *named != module).collect()
    }

    /// A path as written, from the root of the crate; none when it leads out of it, or is a name of
    /// this file.
    fn absolute(&self, module: &ModulePath, file: &File, path: Vec<String>) -> Option<ModulePath> {
        if let Some(path) = relative(module, &path) {
            return Some(path);
        }
        let (first, rest) = path.split_first()?;
        if let Some(import) = file.imports.get(first) {
            return import.path.as_ref().map(|path| [path, rest].concat());
        }
        if file.defined.contains(first) {
            return None;
        }
        if !rest.is_empty() && self.files.contains_key(&below(module, first)) {
            return Some([module, &path[..]].concat());
        }
        if file.locals.contains(first) {
            return None;
        }
        let glob = file
            .globs
            .iter()
            .find(|glob| self.has(glob, first, !rest.is_empty()))?;
        Some([glob, &path[..]].concat())
    }

    /// Whether a name means something in a module; that of a module only where a path goes on.
    fn has(&self, module: &ModulePath, name: &str, goes_on: bool) -> bool {
        let Some(file) = self.files.get(module) else {
            return false;
        };
        file.defined.contains(name)
            || file.imports.contains_key(name)
            || (goes_on && self.files.contains_key(&below(module, name)))
    }

    /// The module whose file defines what a path leads to; none for a module as a whole, and for
    /// things of other crates.
    fn definer(&self, path: &[String], depth: usize) -> Option<&ModulePath> {
        assert!(depth < 20, "`{}` is imported in a circle", path.join("::"));
        let length = (0..=path.len())
            .rev()
            .find(|length| self.files.contains_key(&path[..*length]))?;
        let (module, file) = self.files.get_key_value(&path[..length])?;
        let name = path.get(length)?;
        if file.defined.contains(name) {
            return Some(module);
        }
        if let Some(import) = file.imports.get(name) {
            let onward = [import.path.as_deref()?, &path[length + 1..]].concat();
            return self.definer(&onward, depth + 1);
        }
        let glob = file.globs.iter().find(|glob| self.has(glob, name, false));
        match glob {
            Some(glob) => self.definer(&[glob, &path[length..]].concat(), depth + 1),
            None => Some(module),
        }
    }
}

impl File {
    fn new(module: &ModulePath, shown: String, code: &str, modules: &BTreeSet<ModulePath>) -> Self {
        let (uses, body) = use_items(code);
        let locals = words(&body).filter(|(at, word)| is_typed(&body[at + word.len()..]));
        let locals = locals.map(|(_, word)| word.to_owned()).collect();
        let defined = definitions(&body);
        let mut file = Self {
            shown,
            imports: BTreeMap::new(),
            globs: Vec::new(),
            defined,
            locals,
            body,
        };
        let mut before = "";
        for (_, word) in words(code) {
            // The file of such a module lies elsewhere (`#[path]`).
            if before == "mod" && !modules.contains(&below(module, word)) {
                file.imports.insert(
                    word.to_owned(),
                    Import {
                        path: None,
                        is_passed_on: true,
                    },
                );
            }
            before = word;
        }
        for Use { tree, is_passed_on } in uses {
            for (path, alias) in leaves(&tree) {
                let child = path
                    .first()
                    .is_some_and(|first| modules.contains(&below(module, first)));
                let path =
                    relative(module, &path).or_else(|| child.then(|| [module, &path[..]].concat()));
                match (alias, path) {
                    (Some(alias), path) => {
                        drop(file.imports.insert(alias, Import { path, is_passed_on }))
                    }
                    (None, Some(path)) => file.globs.push(path),
                    (None, None) => {}
                }
            }
        }
        file
    }
}

fn module_path(inside: &str) -> ModulePath {
    let mut path: ModulePath = inside
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if matches!(path.last().map(String::as_str), Some("mod"))
        || matches!(inside, "lib.rs" | "main.rs")
    {
        path.pop();
    }
    path
}

fn below(module: &[String], name: &str) -> ModulePath {
    [module, &[name.to_owned()]].concat()
}

/// A path that begins with `crate`, `self` or `super`, from the root of the crate.
fn relative(module: &ModulePath, path: &[String]) -> Option<ModulePath> {
    let (first, mut rest) = path.split_first()?;
    let mut base = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.clone(),
        "super" => module.split_last()?.1.to_vec(),
        _ => return None,
    };
    while let Some((first, more)) = rest.split_first()
        && first == "super"
    {
        base.pop();
        rest = more;
    }
    Some([&base, rest].concat())
}

fn reachable<'a>(
    start: &'a str,
    arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut stack = vec![start];
    while let Some(file) = stack.pop() {
        for next in &arrows[file] {
            if seen.insert(*next) {
                stack.push(next);
            }
        }
    }
    seen
}

/// A `use` item.
struct Use {
    /// What stands between `use` and `;`.
    tree: String,
    /// It has a visibility.
    is_passed_on: bool,
}

/// The `use` items of some code, and the code with blanks in their place.
fn use_items(code: &str) -> (Vec<Use>, String) {
    let mut uses = Vec::new();
    let mut body = String::with_capacity(code.len());
    let mut done = 0;
    for (at, word) in words(code) {
        // `use<'a>` is a bound, not an item.
        if word != "use" || at < done || code[at + 3..].trim_start().starts_with('<') {
            continue;
        }
        let end = code[at..]
            .find(';')
            .map_or(code.len(), |length| at + length + 1);
        let before = code[..at].trim_end();
        let is_passed_on = before.ends_with("pub")
            || (before.ends_with(')') && before_bracket(before).ends_with("pub"));
        uses.push(Use {
            tree: code[at + 3..end].trim_end_matches(';').to_owned(),
            is_passed_on,
        });
        body.push_str(&code[done..at]);
        done = end;
    }
    body.push_str(&code[done..]);
    (uses, body)
}

fn before_bracket(text: &str) -> &str {
    text.rfind('(').map_or("", |at| &text[..at])
}

/// The paths of a `use` tree, each with the name it gets here; without one: everything in that
/// module.
fn leaves(tree: &str) -> Vec<(Vec<String>, Option<String>)> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        let (path, alias) = tree
            .split_once(" as ")
            .map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
        let mut path: Vec<String> = path
            .split("::")
            .map(|part| part.trim().to_owned())
            .collect();
        path.retain(|part| !part.is_empty());
        let Some(last) = path.last().cloned() else {
            return Vec::new();
        };
        let is_rest = path.len() > 1 && last == "self";
        if last == "*" || is_rest {
            path.pop();
        }
        let name = if is_rest {
            path.last().cloned()
        } else {
            (last != "*").then_some(last)
        };
        // Several traits may be imported as `_`: each needs a name of its own.
        let alias = alias.map(|alias| {
            if alias == "_" {
                format!("_{}", path.join("_"))
            } else {
                alias.to_owned()
            }
        });
        return vec![(path, alias.or(name))];
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    entries(group)
        .into_iter()
        .flat_map(|entry| leaves(&format!("{prefix}{}", entry.trim())))
        .collect()
}

/// What stands between the commas of a group, groups inside it left whole.
fn entries(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut entries) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                entries.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    entries.push(&group[start..]);
    entries.retain(|entry| !entry.trim().is_empty());
    entries
}

/// Identifiers, with their place.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + code[from..].find(is_of_word)?;
        let length = code[at..]
            .find(|c| !is_of_word(c))
            .unwrap_or(code.len() - at);
        from = at + length;
        Some((at, &code[at..from]))
    })
}

/// Macros whose braces hold items.
const MACROS_OF_ITEMS: [&str; 2] = ["section", "words"];

/// Names that the items outside of every brace define, and those within the macros above.
fn definitions(body: &str) -> BTreeSet<String> {
    const KEYWORDS: [&str; 9] = [
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "const",
        "static",
        "union",
        "macro_rules",
    ];
    let mut names = BTreeSet::new();
    let (mut depth, mut done, mut keyword) = (0_i64, 0, false);
    let mut in_macro = false;
    for (at, word) in words(body) {
        depth += body[done..at]
            .chars()
            .map(|c| i64::from(c == '{') - i64::from(c == '}'))
            .sum::<i64>();
        done = at;
        // `const fn` defines what stands after both.
        let is_keyword = KEYWORDS.contains(&word) || (keyword && word == "mut");
        if depth == 0 {
            let is_called = body[at + word.len()..].starts_with("! {");
            in_macro = MACROS_OF_ITEMS.contains(&word) && is_called;
        }
        let is_outside = depth == 0 || (depth == 1 && in_macro);
        if keyword && !is_keyword && is_outside && !matches!(word, "unsafe" | "async" | "extern") {
            names.insert(word.to_owned());
        }
        keyword = is_keyword;
    }
    names
}

/// Whether what stands before is the name of a field or an argument: `field: value`, `argument:
/// Type`.
fn is_typed(after: &str) -> bool {
    let after = after.trim_start();
    after.starts_with(':') && !after.starts_with("::")
}

/// The paths in some code, names of one segment among them. Fields and methods are left out.
fn paths_in(body: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let (mut done, mut word_before) = (0, "");
    for (at, word) in words(body) {
        let declares = matches!(std::mem::replace(&mut word_before, word), "mod" | "fn");
        let before = &body[..at];
        let is_field =
            before.trim_end().ends_with('.') && !before.ends_with("..") && !before.ends_with("..=");
        if at < done
            || declares
            || is_field
            || is_typed(&body[at + word.len()..])
            || before.ends_with('\'')
            || before.ends_with("::")
        {
            continue;
        }
        let mut path = vec![word.to_owned()];
        done = at + word.len();
        while let Some(rest) = body[done..].strip_prefix("::") {
            let next = identifier(rest);
            if next.is_empty() {
                break;
            }
            done += 2 + next.len();
            path.push(next);
        }
        paths.push(path);
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(texts: &[(&str, &str)]) -> Files {
        let own = |text: &str| text.to_owned();
        Files::of(
            texts
                .iter()
                .map(|(path, text)| (own(path), own(path), own(text)))
                .collect(),
        )
    }

    fn circles(texts: &[(&str, &str)]) -> Vec<Vec<String>> {
        let files = crate_of(texts);
        let circles = files.circles(Some("a"));
        circles
            .into_iter()
            .map(|circle| circle.into_iter().map(str::to_owned).collect())
            .collect()
    }

    #[test]
    fn use_trees_are_taken_apart() {
        let found = leaves(" crate::a::{self, b::{C, d as e}, f::*, G as _}");
        let found: Vec<String> = found
            .iter()
            .map(|(path, name)| format!("{} {name:?}", path.join("::")))
            .collect();
        assert_eq!(
            found,
            [
                "crate::a Some(\"a\")",
                "crate::a::b::C Some(\"C\")",
                "crate::a::b::d Some(\"e\")",
                "crate::a::f None",
                "crate::a::G Some(\"_crate_a_G\")"
            ]
        );
    }

    #[test]
    fn macros_of_items_define_what_stands_in_them() {
        let body = "section! { struct A is Once { b: B; } }\nother! { struct C; }\nfn f() { struct D; }\n\
                    words! { pub enum E { F } }\nconst G: u8 = 0;";
        let found: Vec<_> = definitions(body).into_iter().collect();
        assert_eq!(found, ["A", "E", "G", "f"]);
    }

    #[test]
    fn circles_are_found_by_every_form_of_path() {
        let face = ("a/mod.rs", "mod b;\nmod c;\npub struct Face;\n");
        for (b, c) in [
            (
                "use super::c::C;\npub struct B;",
                "use crate::a::b::B;\npub struct C;",
            ),
            (
                "use super::c;\nfn f() { c::g(); }",
                "pub fn g() { super::b::f() }",
            ),
            (
                "use super::{c};\nfn f() { c::g(); }",
                "pub fn g(x: crate::a::b::B) {}",
            ),
            (
                "use super::*;\nfn f() { c::g(); }",
                "use super::b::f as h;\npub fn g() { h() }",
            ),
        ] {
            assert_eq!(
                circles(&[face, ("a/b.rs", b), ("a/c.rs", c)]),
                [["a/b.rs", "a/c.rs"]],
                "{b}\n{c}"
            );
        }
        let text = ("a/mod.rs", "mod b;\npub struct Face;\nfn f() { b::g() }");
        for b in [
            "use super::Face;\npub fn g() {}",
            "use super::*;\npub fn g() -> Face {}",
        ] {
            assert_eq!(
                circles(&[text, ("a/b.rs", b)]),
                [["a/b.rs", "a/mod.rs"]],
                "{b}"
            );
        }
    }

    #[test]
    fn what_is_passed_on_counts_as_its_own_file() {
        let face = "mod b;\nmod c;\npub use b::B;\npub(crate) use c::{C, D};\n";
        let b = ("a/b.rs", "use super::C;\npub struct B;");
        assert!(circles(&[("a/mod.rs", face), b, ("a/c.rs", "pub struct C;")]).is_empty());
        let c = ("a/c.rs", "use crate::a::B;\npub struct C;");
        assert_eq!(circles(&[("a/mod.rs", face), b, c]), [["a/b.rs", "a/c.rs"]]);
        // A face that uses what it passes on names it like any other file.
        let using = format!("{face}pub struct Face(B);");
        let b = ("a/b.rs", "use super::Face;\npub struct B;");
        assert_eq!(
            circles(&[("a/mod.rs", &using), b, ("a/c.rs", "")]),
            [["a/b.rs", "a/mod.rs"]]
        );
    }

    #[test]
    fn tests_comments_and_modules_as_such_are_no_arrows() {
        let face = "mod b;\nmod c;\n#[cfg(test)]\nmod fixture;\npub struct Face;\n#[cfg(test)]\nmod tests { use super::b::B; }";
        let b = "use std::c::C;\nuse super::{Face, c};\npub struct B { c: u8 }\n// super::c::C\n";
        let c = "//! [`super::b::B`]\npub struct C;\n#[cfg(test)]\nmod tests {\n use crate::a::b::B;\n}";
        let texts = [
            ("a/mod.rs", face),
            ("a/b.rs", b),
            ("a/c.rs", c),
            ("a/fixture.rs", "use super::b::B;"),
        ];
        assert!(circles(&texts).is_empty());
    }
}
