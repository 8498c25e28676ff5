//! SIP as it is read and written: framing, spans, edits, local replies. Never transport, never owns a message.
#![forbid(unsafe_code)]
