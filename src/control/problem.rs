//! Errors of the admin interface as problem documents (RFC 9457).
//! Owns their one form. Never says anything of a peer or a secret.

use axum::http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// One error as it is answered. The type is `about:blank`: the status says what it is, `detail` what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Extension member `faults`: one line each; empty: absent.
    faults: Vec<String>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into(), faults: Vec::new() }
    }

    pub fn with_faults(self, faults: Vec<String>) -> Self {
        Problem { faults, ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The document itself.
    pub fn document(&self) -> serde_json::Value {
        let mut document = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.faults.is_empty() {
            document["faults"] = json!(self.faults);
        }
        document
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.document().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.entry(ALLOW).or_insert(HeaderValue::from_static("GET, HEAD"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_and_type_of_rfc_9457() {
        let response = Problem::new(StatusCode::NOT_FOUND, "no such stage").into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let document = Problem::new(StatusCode::NOT_FOUND, "no such stage").document();
        assert_eq!(
            document,
            json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such stage"})
        );
        let faults = vec!["a".to_owned(), "b".to_owned()];
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "x").with_faults(faults);
        assert_eq!(problem.document()["faults"], json!(["a", "b"]));
    }
}
