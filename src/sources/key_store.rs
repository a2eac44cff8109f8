//! Route commands that are kept under keys, and can be changed there.

use futures_util::future::LocalBoxFuture;

/// A value, and what a change of it has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Without the white space around it; what is not UTF-8 is replaced.
    pub text: String,
    /// Number of the last change; of a key that does not exist, that of the response.
    pub version: u64,
}

/// Keys with values. Errors are words for the operator.
pub trait KeyStore {
    /// The value of a key; empty when there is none.
    fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Value, String>>;

    /// Changes a key whose last change is `version`; 0: one that does not exist. Whether it was so.
    fn write<'a>(
        &'a self,
        key: &'a str,
        text: &'a str,
        version: u64,
    ) -> LocalBoxFuture<'a, Result<bool, String>>;

    /// All keys that begin with `prefix`, in the order of their names.
    fn names<'a>(&'a self, prefix: &'a str) -> LocalBoxFuture<'a, Result<Vec<String>, String>>;
}

/// The keys of a store that hold route commands.
pub struct CommandKeys {
    pub store: Box<dyn KeyStore>,
    /// What all of the keys begin with.
    pub prefix: String,
}
