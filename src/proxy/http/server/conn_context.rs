//! Where a client connection belongs.

use std::rc::Rc;
use std::sync::Arc;

use super::downstream::Downstream;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;

#[derive(Debug)]
pub(crate) struct ConnContext {
    pub(crate) worker: Rc<Worker>,
    /// The settings it began with.
    pub(crate) settings: Arc<Settings>,
    /// What its requests share.
    pub(crate) downstream: Rc<Downstream>,
}
