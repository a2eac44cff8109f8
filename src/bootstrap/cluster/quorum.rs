//! How many servers a product can do without. Pure.

/// How many of so many voters have to agree.
#[must_use]
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether those that serve still decide when so many of them go.
#[must_use]
pub fn stands(voters: usize, serving: usize, going: usize) -> bool {
    serving.saturating_sub(going) >= majority(voters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_has_to_be_left() {
        for (voters, serving, going, expected) in [
            (1, 1, 0, true),
            (1, 1, 1, false),
            (2, 2, 0, true),
            (2, 2, 1, false),
            (3, 3, 1, true),
            (3, 2, 0, true),
            (3, 2, 1, false),
            (4, 3, 0, true),
            (4, 3, 1, false),
            (5, 4, 1, true),
            (5, 3, 1, false),
            (5, 2, 0, false),
        ] {
            assert_eq!(
                stands(voters, serving, going),
                expected,
                "{serving} of {voters}, {going} go"
            );
        }
    }
}
