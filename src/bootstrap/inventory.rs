//! Nodes as `terraform output -json` prints them.
