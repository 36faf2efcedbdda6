//! Calls: messages, bodies and tokens.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use keypaird::domain::{ListFilter, ListOrder, OrderField, PageToken};
use keypaird::proto::{
    BatchSignResponse, FILE_DESCRIPTOR_SET, SignStreamResponse, batch_sign_result,
    sign_stream_response,
};
use keypaird::service::report::{self, report};
use keypaird::service::{ListRequest, PublicKeysRequest, ServiceError, WatchRequest};
use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::stage::{IDS, PATIENCE, Stage, on_stage};

/// A method of gRPC.
#[derive(Debug)]
pub(super) struct Method {
    /// As it stands in a request.
    pub(super) path: String,
    /// Whether its answers may go on for ever.
    watches: bool,
}

/// Every method there is, ours and those of health and reflection.
pub(super) static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| {
    let mut methods = Vec::new();
    for set in [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    watches: method.server_streaming() && !method.client_streaming(),
                }));
            }
        }
    }
    methods.push(Method {
        path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".into(),
        watches: false,
    });
    methods
});

/// Sends a message to a method: the first byte says which.
pub(super) fn protobuf(bytes: &[u8]) {
    let Some((number, message)) = bytes.split_first() else {
        return;
    };
    let method = &METHODS[usize::from(*number) % METHODS.len()];
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    on_stage(async |stage| {
        let request = Request::post(&*method.path)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(tonic::body::Body::new(Full::from(framed)))
            .unwrap();
        let Ok(answer) = stage.grpc.clone().oneshot(request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return is_of_the_contract(&status);
        }
        let mut body = answer.into_body();
        let mut messages = Vec::new();
        loop {
            let patience = if method.watches { NEXT_EVENT } else { PATIENCE };
            let next = tokio::time::timeout(patience, body.frame()).await;
            let Ok(Some(frame)) = next else {
                break;
            };
            let frame = frame.unwrap();
            match frame.into_data() {
                Ok(data) => messages.extend(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    is_of_the_contract(&Status::from_header_map(&trailers).unwrap());
                    // Nothing comes behind them.
                    break;
                }
            }
        }
        // Errors inside of answers.
        for message in unframed(&messages) {
            if method.path.ends_with("/BatchSign") {
                let answer = BatchSignResponse::decode(message).unwrap();
                for result in answer.results {
                    if let Some(batch_sign_result::Result::Error(status)) = result.result {
                        is_of_the_contract(&Status::new(status.code.into(), status.message));
                    }
                }
            } else if method.path.ends_with("/SignStream") {
                let answer = SignStreamResponse::decode(message).unwrap();
                if let Some(sign_stream_response::Result::Error(status)) = answer.result {
                    is_of_the_contract(&Status::new(status.code.into(), status.message));
                }
            }
        }
    });
}

fn is_of_the_contract(status: &Status) {
    let never = [
        Code::Internal,
        Code::Unknown,
        Code::DataLoss,
        Code::DeadlineExceeded,
    ];
    assert!(!never.contains(&status.code()), "{status:?}");
}

/// Takes answers apart: a byte, a length of four, and the message.
fn unframed(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_first_chunk::<5>()?;
        let [_, length @ ..] = *head;
        let (message, rest) = rest.split_at(u32::from_be_bytes(length).try_into().unwrap());
        bytes = rest;
        Some(message)
    })
}

/// A call of the REST API.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: String,
    pub(super) path: String,
    takes_body: bool,
}

/// Every call that the description of the API tells of.
pub(super) static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    on_stage(async |stage| {
        let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
        let (_, description) = ask(stage, request).await;
        let description: Value = serde_json::from_slice(&description).unwrap();
        let mut routes = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, call) in methods.as_object().unwrap() {
                routes.push(Route {
                    method: method.to_ascii_uppercase(),
                    path: path.clone(),
                    takes_body: call.get("requestBody").is_some(),
                });
            }
        }
        routes
    })
});

/// Sends a body, or else an id or a query: the first byte says to which call, the second which of these.
pub(super) fn json(bytes: &[u8]) {
    let [number, place, rest @ ..] = bytes else {
        return;
    };
    let route = &ROUTES[usize::from(*number) % ROUTES.len()];
    let known = IDS[usize::from(*place & 1)];
    let (id, query) = match route.takes_body {
        true => (known.to_owned(), String::new()),
        false if *place < 128 => (known.to_owned(), escaped(rest, b"=&+%")),
        false => (escaped(rest, b""), String::new()),
    };
    let path = route.path.replace("{id}", &id);
    let body = match route.takes_body {
        true => Body::from(rest.to_vec()),
        false => Body::empty(),
    };
    let request = Request::builder()
        .method(&*route.method)
        .uri(match &*query {
            "" => path,
            query => format!("{path}?{query}"),
        })
        .header(header::CONTENT_TYPE, "application/json")
        .body(body);
    // Longer than any path.
    let Ok(request) = request else {
        return;
    };
    on_stage(async |stage| {
        let (status, body) = ask(stage, request).await;
        let never = [
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        assert!(
            !never.contains(&status),
            "{}",
            String::from_utf8_lossy(&body)
        );
        if !status.is_success() {
            let result: Value = serde_json::from_slice(&body).unwrap();
            assert!(!result["resultId"].as_str().unwrap().is_empty(), "{result}");
            assert!(!result["message"].as_str().unwrap().is_empty(), "{result}");
        }
    });
}

async fn ask(stage: &Stage, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let Ok(answer) = stage.rest.clone().oneshot(request).await;
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, body.to_vec())
}

/// Percent-encodes what may not stand in a path, but for what is let through.
fn escaped(bytes: &[u8], let_through: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            byte if byte.is_ascii_alphanumeric() || let_through.contains(byte) => {
                text.push(char::from(*byte));
            }
            byte => write!(text, "%{byte:02X}").unwrap(),
        }
    }
    text
}

/// Asks for the page of a token, and for events since one: as it comes, or as somebody writes it who knows how.
pub(super) fn page_token(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else {
        return;
    };
    let (field, order_by) = [
        (OrderField::CreateTime, "create_time"),
        (OrderField::Id, "id"),
        (OrderField::Expires, "expires"),
        (OrderField::SubjectDn, "subject_dn"),
    ][usize::from(how & 3)];
    let descending = how & 4 != 0;
    let order = ListOrder { field, descending };
    let text = String::from_utf8_lossy(rest).into_owned();
    let token = match rest.split_first_chunk::<8>() {
        Some((sequence, value)) if how & 8 != 0 => PageToken {
            sequence: i64::from_be_bytes(*sequence),
            value: String::from_utf8_lossy(value).into_owned(),
        }
        .encode(&ListFilter::default(), order),
        _ => text.clone(),
    };
    on_stage(async |stage| {
        let direction = if descending { " desc" } else { "" };
        let page = stage.service.list(ListRequest {
            page_token: token.clone(),
            order_by: format!("{order_by}{direction}"),
            ..ListRequest::default()
        });
        refuses_at_most(page.await.map(drop));
        let keys = stage.service.public_keys(PublicKeysRequest {
            page_token: token.clone(),
            ..PublicKeysRequest::default()
        });
        refuses_at_most(keys.await.map(drop));
        let told = stage.service.watch(WatchRequest {
            since: text,
            ..WatchRequest::default()
        });
        refuses_at_most(told.await.map(drop));
    });
}

fn refuses_at_most(outcome: Result<(), ServiceError>) {
    if let Err(error) = outcome {
        let code = report(&error).code;
        assert!(
            matches!(
                code,
                report::Code::InvalidArgument | report::Code::FailedPrecondition
            ),
            "{error:?}"
        );
    }
}

/// How long an answer that may go on for ever is waited for.
const NEXT_EVENT: Duration = Duration::from_millis(20);
