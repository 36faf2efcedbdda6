//! Which calls have a line in the access log.

/// Which calls have a line of their own in the log when they are answered (`telemetry.access_log`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that change something, or hand out a private key.
    Changes,
    /// All but signatures and probes.
    #[default]
    ExceptSigning,
    /// All.
    All,
}

impl AccessLog {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::Off, Self::Changes, Self::ExceptSigning, Self::All];

    /// Returns its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Changes => "changes",
            Self::ExceptSigning => "except-signing",
            Self::All => "all",
        }
    }

    /// Tells whether a call of a method has a line: the path of gRPC, or the method and the path of
    /// HTTP.
    pub(super) fn has(self, method: &str) -> bool {
        match self {
            Self::Off => false,
            Self::Changes => Kind::of(method) == Kind::Change,
            Self::ExceptSigning => matches!(Kind::of(method), Kind::Change | Kind::Read),
            Self::All => true,
        }
    }
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Change,
    Read,
    /// It comes as often as something is signed.
    Sign,
    /// It is asked again and again by machines whether all is well.
    Probe,
}

impl Kind {
    fn of(method: &str) -> Self {
        if let Some(method) = method.strip_prefix("/keypaird.v1.SigningService/") {
            return match method {
                "ListPublicKeys" => Self::Read,
                _ => Self::Sign,
            };
        }
        if let Some(method) = method.strip_prefix("/keypaird.v1.KeyPairService/") {
            let reads = READING.iter().any(|word| method.starts_with(word));
            return match reads {
                true => Self::Read,
                false => Self::Change,
            };
        }
        if let Some(path) = method.strip_prefix("GET ").or(method.strip_prefix("HEAD ")) {
            return match PROBES.contains(&path) {
                true => Self::Probe,
                false => Self::Read,
            };
        }
        match method.strip_prefix("/grpc.") {
            Some(_) => Self::Probe,
            None if method.starts_with("/keypaird.v1.EventService/") => Self::Read,
            None => Self::Change,
        }
    }
}

/// What methods begin with that change nothing.
const READING: [&str; 6] = [
    "Diagnose",
    "ExportCertificate",
    "GenerateCsr",
    "Get",
    "List",
    "Plan",
];
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_more_calls_than_the_one_before() {
        let change = "/keypaird.v1.KeyPairService/GenerateSigningKeyPair";
        let read = "/keypaird.v1.KeyPairService/GetSigningKeyPair";
        let sign = "/keypaird.v1.SigningService/Sign";
        let calls = [
            change,
            "/keypaird.v1.KeyPairService/ExportSigningKeyPair",
            "POST /pf-admin-api/v1/keyPairs/signing/generate",
            "DELETE /pf-admin-api/v1/keyPairs/signing/x",
            read,
            "/keypaird.v1.KeyPairService/ExportCertificate",
            "/keypaird.v1.KeyPairService/GenerateCsr",
            "/keypaird.v1.EventService/WatchKeyPairs",
            "/keypaird.v1.SigningService/ListPublicKeys",
            "GET /pf-admin-api/v1/keyPairs/signing/x",
            sign,
            "/keypaird.v1.SigningService/SignStream",
            "/grpc.health.v1.Health/Check",
            "GET /readyz",
        ];
        let counts = AccessLog::ALL.map(|log| calls.iter().filter(|call| log.has(call)).count());
        assert_eq!(counts, [0, 4, 10, 14]);
        assert!(AccessLog::Changes.has(change) && !AccessLog::Changes.has(read));
        assert!(AccessLog::ExceptSigning.has(read) && !AccessLog::ExceptSigning.has(sign));
    }
}
