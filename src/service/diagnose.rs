//! Tells what only the daemon knows of its own state, in sentences with remedies.

use time::{Duration, OffsetDateTime};

use super::{Service, ServiceError};
use crate::domain::{ProviderKind, ProviderMode};
use crate::store::DiskSpace;

/// How one thing is that the daemon looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub subject: &'static str,
    /// How it is, in a sentence without secrets.
    pub message: String,
    /// What an operator can do about it. Empty when there is nothing to be done.
    pub remedy: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is as it should be.
    Ok,
    /// It works, and an operator should look at it.
    Warn,
    /// It does not work.
    Fail,
}

impl Diagnosis {
    fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            subject,
            message: message.into(),
            remedy: String::new(),
        }
    }

    fn warn(subject: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warn,
            subject,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl Service {
    /// Looks at the certificates of key pairs that nothing rotates, at the certificate of the
    /// daemon, at what may be exported, and at the disk of the store. No question reaches a token.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn diagnose(&self) -> Result<Vec<Diagnosis>, ServiceError> {
        let now = self.clock.now();
        let warning_days = self.config.rotation.expiry_warning_days.iter().max();
        let mut found = Vec::new();
        if let Some(days) = warning_days {
            found.push(self.diagnose_expiry(now, *days).await?);
        }
        if let Some(not_after) = self.tls_status.not_after() {
            let days = warning_days.copied().unwrap_or(TLS_WARNING_DAYS);
            found.push(diagnose_certificate(not_after, now, days));
        }
        if self.config.allow_export {
            found.push(diagnose_export(self.count(ProviderKind::Local).await?));
        }
        found.extend(self.store.disk_space().map(diagnose_disk));
        Ok(found)
    }

    async fn diagnose_expiry(
        &self,
        now: OffsetDateTime,
        days: u16,
    ) -> Result<Diagnosis, ServiceError> {
        let provider = match self.registry.policy().mode {
            ProviderMode::Local => Some(ProviderKind::Local),
            ProviderMode::Hsm => Some(ProviderKind::Hsm),
            ProviderMode::Hybrid => None,
        };
        let before = now.saturating_add(Duration::days(days.into()));
        let with_rotation = !self.config.rotation.enabled;
        let count = self
            .store
            .count_expiring(provider, now, before, with_rotation)
            .await?;
        let subject = "expiry";
        if count == 0 {
            let message = format!(
                "every key pair that expires within {} rotates",
                in_days(days)
            );
            return Ok(Diagnosis::ok(subject, message));
        }
        let (expire, them) = match count {
            1 => ("1 key pair expires", "it"),
            _ => ("key pairs expire", "them"),
        };
        let expire = match count {
            1 => expire.to_owned(),
            _ => format!("{count} {expire}"),
        };
        let why = match with_rotation {
            true => "rotation.enabled is false",
            false => "nothing rotates",
        };
        let message = match with_rotation {
            true => format!("{expire} within {}, and {why}", in_days(days)),
            false => format!("{expire} within {}, and {why} {them}", in_days(days)),
        };
        let rotating = if with_rotation { "" } else { " --not-rotating" };
        let remedy = format!(
            "keypairctl list --expires-within {days}d --status valid{rotating} lists {them}; \
             keypairctl rotation set ID has one rotate"
        );
        Ok(Diagnosis::warn(subject, message, remedy))
    }
}

fn diagnose_certificate(not_after: OffsetDateTime, now: OffsetDateTime, days: u16) -> Diagnosis {
    let subject = "TLS certificate";
    let remedy = "put a new certificate and key at server.tls.certificate and server.tls.private_key; \
                  the daemon reads them within seconds, without a restart";
    let date = not_after.date();
    if not_after < now {
        return Diagnosis {
            severity: Severity::Fail,
            ..Diagnosis::warn(subject, format!("it expired on {date}"), remedy)
        };
    }
    let left = (not_after - now).whole_days();
    let message = match left {
        0 => format!("it expires within a day, on {date}"),
        1 => format!("it expires in 1 day, on {date}"),
        _ => format!("it expires in {left} days, on {date}"),
    };
    match left < i64::from(days) {
        true => Diagnosis::warn(subject, message, remedy),
        false => Diagnosis::ok(subject, message),
    }
}

fn diagnose_export(local_key_pairs: u64) -> Diagnosis {
    let subject = "export";
    let keys = match local_key_pairs {
        0 => {
            let message = "crypto.local.allow_export is true, and there is no software key yet";
            return Diagnosis::ok(subject, message);
        }
        1 => "the private key of 1 key pair".to_owned(),
        count => format!("the private keys of {count} key pairs"),
    };
    Diagnosis::warn(
        subject,
        format!("crypto.local.allow_export is true: callers can take {keys} out of the daemon"),
        "set crypto.local.allow_export = false when nothing has to be exported",
    )
}

fn diagnose_disk(space: DiskSpace) -> Diagnosis {
    let subject = "store disk";
    let percent = space.available_bytes.saturating_mul(100) / space.total_bytes.max(1);
    let message = format!(
        "{} of {} are free ({percent} %)",
        size(space.available_bytes),
        size(space.total_bytes)
    );
    let little = space.available_bytes < AVAILABLE_MIN;
    let share = percent < AVAILABLE_PERCENT_MIN && space.available_bytes < AVAILABLE_ENOUGH;
    match little || share {
        true => Diagnosis::warn(
            subject,
            message,
            "make room on the disk of store.url: when it is full, nothing can be made, rotated or deleted",
        ),
        false => Diagnosis::ok(subject, message),
    }
}

fn in_days(days: u16) -> String {
    match days {
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Writes a number of bytes in the unit that leaves two digits or more, rounded down.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift >= 10 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// Within how many days the expiry of the daemon's certificate is warned of, where nothing is
/// configured.
const TLS_WARNING_DAYS: u16 = 30;
/// Less than this is nearly full, however small the disk is: room for the log of SQLite and a
/// backup of some thousand key pairs.
const AVAILABLE_MIN: u64 = 64 << 20;
/// Below this share of the disk it is nearly full, unless there is still a lot.
const AVAILABLE_PERCENT_MIN: u64 = 10;
const AVAILABLE_ENOUGH: u64 = 10 << 30;

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_certificate_of_the_daemon_is_warned_of_before_it_expires() {
        let not_after = datetime!(2027-01-31 12:00 UTC);
        for (name, now, severity, message) in [
            (
                "far",
                datetime!(2026-12-01 12:00 UTC),
                Severity::Ok,
                "it expires in 61 days, on 2027-01-31",
            ),
            (
                "near",
                datetime!(2027-01-02 12:00 UTC),
                Severity::Warn,
                "it expires in 29 days, on 2027-01-31",
            ),
            (
                "one",
                datetime!(2027-01-30 12:00 UTC),
                Severity::Warn,
                "it expires in 1 day, on 2027-01-31",
            ),
            (
                "last",
                datetime!(2027-01-31 11:00 UTC),
                Severity::Warn,
                "it expires within a day, on 2027-01-31",
            ),
            (
                "past",
                datetime!(2027-01-31 12:01 UTC),
                Severity::Fail,
                "it expired on 2027-01-31",
            ),
        ] {
            let found = diagnose_certificate(not_after, now, 30);
            assert_eq!(
                (found.severity, &*found.message),
                (severity, message),
                "{name}"
            );
            assert_eq!(found.remedy.is_empty(), severity == Severity::Ok, "{name}");
        }
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_warned_of() {
        for (name, available_bytes, total_bytes, severity, message) in [
            (
                "half",
                50 << 30,
                100 << 30,
                Severity::Ok,
                "50 GiB of 100 GiB are free (50 %)",
            ),
            (
                "little",
                4 << 30,
                100 << 30,
                Severity::Warn,
                "4096 MiB of 100 GiB are free (4 %)",
            ),
            (
                "large",
                50 << 30,
                1000 << 30,
                Severity::Ok,
                "50 GiB of 1000 GiB are free (5 %)",
            ),
            (
                "small disk",
                20 << 20,
                100 << 20,
                Severity::Warn,
                "20 MiB of 100 MiB are free (20 %)",
            ),
            (
                "none",
                0,
                100 << 30,
                Severity::Warn,
                "0 bytes of 100 GiB are free (0 %)",
            ),
            (
                "unknown",
                0,
                0,
                Severity::Warn,
                "0 bytes of 0 bytes are free (0 %)",
            ),
        ] {
            let found = diagnose_disk(DiskSpace {
                available_bytes,
                total_bytes,
            });
            assert_eq!(
                (found.severity, &*found.message),
                (severity, message),
                "{name}"
            );
        }
    }

    #[test]
    fn software_keys_that_may_be_exported_are_warned_of() {
        assert_eq!(diagnose_export(0).severity, Severity::Ok);
        let one = diagnose_export(1);
        assert_eq!(one.severity, Severity::Warn);
        assert!(
            one.message
                .ends_with("the private key of 1 key pair out of the daemon")
        );
    }
}
