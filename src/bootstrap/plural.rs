//! Numbers with their nouns.

use std::fmt::Display;

/// `1 node`, `2 nodes`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1_usize, "node"), "1 node");
        assert_eq!(counted(0_usize, "node"), "0 nodes");
        assert_eq!(counted(-1_i64, "day"), "-1 days");
        assert_eq!(counted(30_i64, "day"), "30 days");
    }
}
