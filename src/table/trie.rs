//! A persistent radix trie over bytes: the longest stored key that a text starts with.
//!
//! Nodes are behind `Arc`; a change copies the nodes on its own way down and shares all others with
//! the trie it was cloned from. A clone is one pointer. What the values are, and which text is
//! folded or reversed before it gets here, is up to the caller.

use std::sync::Arc;

use smallvec::SmallVec;

/// Maps byte strings to values; finds values by prefix.
#[derive(Debug)]
pub(super) struct Trie<V> {
    root: Option<Arc<Node<V>>>,
}

/// A run of bytes that no stored key ends or branches in.
#[derive(Clone, Debug)]
struct Node<V> {
    label: SmallVec<[u8; 16]>,
    value: Option<V>,
    /// Sorted by the first byte of the child's label.
    children: Vec<(u8, Arc<Node<V>>)>,
}

impl<V> Clone for Trie<V> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
        }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V> Trie<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The value of the longest stored key that `text` starts with. With `FOLD`, ASCII letters of
    /// `text` are compared in lower case (the stored keys have to be in lower case then).
    pub(super) fn longest<const FOLD: bool>(&self, text: &[u8]) -> Option<&V> {
        let mut best = None;
        self.walk::<FOLD>(text, |value| best = Some(value));
        best
    }

    /// Visits the values of all stored keys that `text` starts with, the shortest first.
    pub(super) fn walk<'a, const FOLD: bool>(&'a self, text: &[u8], mut visit: impl FnMut(&'a V)) {
        let Some(root) = &self.root else { return };
        let mut node = &**root;
        let mut rest = text;
        // Every turn consumes at least one byte of the text.
        while let Some(after) = strip::<FOLD>(rest, &node.label) {
            if let Some(value) = &node.value {
                visit(value);
            }
            rest = after;
            let Some(&first) = rest.first() else { return };
            let Some(child) = node.child(if FOLD {
                first.to_ascii_lowercase()
            } else {
                first
            }) else {
                return;
            };
            node = child;
        }
    }

    /// Visits every value, in ascending order of the keys.
    pub(super) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a V)) {
        let mut stack: Vec<&Node<V>> = self.root.iter().map(|root| &**root).collect();
        while let Some(node) = stack.pop() {
            if let Some(value) = &node.value {
                visit(value);
            }
            stack.extend(node.children.iter().rev().map(|(_, child)| &**child));
        }
    }
}

impl<V: Clone> Trie<V> {
    /// Lets `change` make, replace or take away the value of `key`.
    pub(super) fn update(&mut self, key: &[u8], change: impl FnOnce(&mut Option<V>)) {
        update(&mut self.root, key, change);
    }
}

impl<V> Node<V> {
    fn leaf(label: &[u8], value: V) -> Self {
        Self {
            label: label.into(),
            value: Some(value),
            children: Vec::new(),
        }
    }

    fn child(&self, first: u8) -> Option<&Self> {
        let at = self
            .children
            .binary_search_by_key(&first, |(byte, _)| *byte)
            .ok()?;
        Some(&self.children[at].1)
    }
}

/// `text` without `label` in front.
fn strip<'a, const FOLD: bool>(text: &'a [u8], label: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(label.len())?;
    let same = if FOLD {
        head.eq_ignore_ascii_case(label)
    } else {
        head == label
    };
    same.then_some(rest)
}

/// The subtree in `slot` with the value of `key` (relative to the slot) changed. Recursion is as
/// deep as there are stored keys that are prefixes of `key`, at most its length.
fn update<V: Clone>(
    slot: &mut Option<Arc<Node<V>>>,
    key: &[u8],
    change: impl FnOnce(&mut Option<V>),
) {
    let Some(shared) = slot else {
        let mut value = None;
        change(&mut value);
        *slot = value.map(|value| Arc::new(Node::leaf(key, value)));
        return;
    };
    let node = Arc::make_mut(shared);
    let common = node
        .label
        .iter()
        .zip(key)
        .take_while(|(a, b)| a == b)
        .count();
    if common < node.label.len() {
        split(node, common);
    }
    let rest = &key[common..];
    match rest.first() {
        None => change(&mut node.value),
        Some(&first) => {
            let found = node
                .children
                .binary_search_by_key(&first, |(byte, _)| *byte);
            let (at, mut child) = match found {
                Ok(at) => (at, Some(node.children.remove(at).1)),
                Err(at) => (at, None),
            };
            update(&mut child, rest, change);
            if let Some(child) = child {
                node.children.insert(at, (first, child));
            }
        }
    }
    if node.value.is_none() {
        match node.children.len() {
            0 => *slot = None,
            1 => merge_with_only_child(node),
            _ => {}
        }
    }
}

/// Cuts the label at `at`; what followed becomes the only child.
fn split<V>(node: &mut Node<V>, at: usize) {
    let tail = Node {
        label: node.label[at..].into(),
        value: node.value.take(),
        children: std::mem::take(&mut node.children),
    };
    node.label.truncate(at);
    node.children.push((tail.label[0], Arc::new(tail)));
}

fn merge_with_only_child<V: Clone>(node: &mut Node<V>) {
    if let Some((_, child)) = node.children.pop() {
        let child = Arc::unwrap_or_clone(child);
        node.label.extend_from_slice(&child.label);
        node.value = child.value;
        node.children = child.children;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn longest_stored_prefix_wins() {
        let mut trie = Trie::default();
        for key in ["/", "/foo", "/foo/bar", "/fob"] {
            trie.update(key.as_bytes(), |value| *value = Some(key));
        }
        for (text, expected) in [
            ("/", Some("/")),
            ("", None),
            ("x", None),
            ("/fo", Some("/")),
            ("/foo", Some("/foo")),
            ("/foobar", Some("/foo")),
            ("/foo/ba", Some("/foo")),
            ("/foo/bar/x", Some("/foo/bar")),
            ("/FOO", Some("/")),
        ] {
            assert_eq!(
                trie.longest::<false>(text.as_bytes()).copied(),
                expected,
                "{text}"
            );
        }
        assert_eq!(trie.longest::<true>(b"/FOO/Bar").copied(), Some("/foo/bar"));
    }

    #[test]
    fn a_change_leaves_clones_alone_and_removal_leaves_nothing() {
        let mut trie = Trie::default();
        trie.update(b"/a", |value| *value = Some(1));
        let before = trie.clone();
        trie.update(b"/ab", |value| *value = Some(2));
        assert_eq!(before.longest::<false>(b"/abc"), Some(&1));
        assert_eq!(trie.longest::<false>(b"/abc"), Some(&2));
        trie.update(b"/ab", |value| *value = None);
        trie.update(b"/a", |value| *value = None);
        trie.update(b"/never", |value| *value = None);
        assert!(trie.is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec(("[ab/]{0,5}", any::<bool>()), 0..60),
            texts in prop::collection::vec("[ab/]{0,8}", 0..20),
        ) {
            let mut trie = Trie::default();
            let mut map = BTreeMap::new();
            for (at, (key, insert)) in steps.iter().enumerate() {
                trie.update(key.as_bytes(), |value| *value = insert.then_some(at));
                if *insert { map.insert(key.clone(), at); } else { map.remove(key); }
            }
            for text in &texts {
                let expected = map.iter().filter(|(key, _)| text.starts_with(key.as_str())).max_by_key(|(key, _)| key.len());
                prop_assert_eq!(trie.longest::<false>(text.as_bytes()), expected.map(|(_, at)| at));
            }
            let mut all = Vec::new();
            trie.for_each(&mut |value| all.push(*value));
            prop_assert_eq!(all, map.values().copied().collect::<Vec<_>>());
        }
    }
}
