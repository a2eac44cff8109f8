//! The same on many nodes at once.

use anyhow::{Result, bail};
use futures_util::stream::{self, StreamExt as _};

use crate::bootstrap::context::Context;

/// Works on many nodes at once, on each to the end: one that fails cuts no other off in the middle
/// of something. The results in order.
///
/// # Errors
/// All failures together.
pub(in crate::bootstrap) async fn each<T>(
    context: &Context,
    all: impl IntoIterator<Item = impl Future<Output = Result<T>>>,
) -> Result<Vec<T>> {
    together(each_result(context, all).await)
}

/// The same with each result, good or bad.
pub(in crate::bootstrap) async fn each_result<T>(
    context: &Context,
    all: impl IntoIterator<Item = impl Future<Output = Result<T>>>,
) -> Vec<Result<T>> {
    stream::iter(all)
        .buffered(context.parallel())
        .collect()
        .await
}

fn together<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (mut good, mut bad) = (Vec::with_capacity(results.len()), Vec::new());
    for result in results {
        match result {
            Ok(result) => good.push(result),
            Err(error) => bad.push(error),
        }
    }
    fail_together(bad).map(|()| good)
}

/// One error of all of them; none of none.
pub(in crate::bootstrap) fn fail_together(mut bad: Vec<anyhow::Error>) -> Result<()> {
    match (bad.pop(), bad.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => Err(only),
        (Some(last), false) => {
            bad.push(last);
            let lines: String = bad.iter().map(|error| format!("\n  {error:#}")).collect();
            bail!("{} nodes failed:{lines}", bad.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_together() {
        let node = |name: &str| Err(anyhow::anyhow!("{name}: no room"));
        assert_eq!(together(vec![Ok(1), Ok(2)]).unwrap(), [1, 2]);
        assert_eq!(
            together(vec![Ok(1), node("a")]).unwrap_err().to_string(),
            "a: no room"
        );
        let said = together(vec![node("a"), Ok(1), node("b")])
            .unwrap_err()
            .to_string();
        assert_eq!(said, "2 nodes failed:\n  a: no room\n  b: no room");
    }
}
