//! Building blocks of the scripts.
