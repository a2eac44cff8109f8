//! What the access log wants to know of a request, whichever reader it comes from.

use http::HeaderValue;

use super::downstream::Downstream;
use crate::proxy::http::custom_log_fields::CustomLogFields;
use crate::proxy::http::head::Head;
use crate::proxy::http::record::RequestNote;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;

/// What the access log wants to know of a request.
pub(crate) fn note_of(
    worker: &Worker,
    downstream: &Downstream,
    settings: &Settings,
    head: &Head<'_>,
    id: Option<&HeaderValue>,
) -> Box<RequestNote> {
    let mut note = RequestNote::of(head);
    note.custom = worker.access.custom().map(|format| {
        let mut fields =
            CustomLogFields::new(format, head, &downstream.client, &settings.header_rules);
        if let (Some(name), Some(id)) = (&settings.header_rules.request_id_header, id) {
            fields.header(format, name, id);
        }
        fields
    });
    note.request_id = id.cloned();
    note
}
