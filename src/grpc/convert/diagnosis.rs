//! What the daemon knows of its own state.

use crate::proto::finding::Severity as ProtoSeverity;
use crate::proto::{DiagnoseResponse, Finding};
use crate::service::{Diagnosis, Severity};

/// Writes what was found.
pub(in crate::grpc) fn response(found: Vec<Diagnosis>) -> DiagnoseResponse {
    DiagnoseResponse {
        findings: found.into_iter().map(finding).collect(),
    }
}

fn finding(diagnosis: Diagnosis) -> Finding {
    let severity = match diagnosis.severity {
        Severity::Ok => ProtoSeverity::Ok,
        Severity::Warn => ProtoSeverity::Warn,
        Severity::Fail => ProtoSeverity::Fail,
    };
    Finding {
        severity: severity.into(),
        subject: diagnosis.subject.to_owned(),
        message: diagnosis.message,
        remedy: diagnosis.remedy,
    }
}
