//! What is to be done next with a key pair that rotates, and when.
//!
//! A pure function of what is recorded: [`Lifecycle::next`]. Nothing here looks at a clock, so that a step that is late
//! is only that, and a clock that goes back undoes nothing.

use time::{Duration, OffsetDateTime};

use super::{Generation, GenerationState, KeyPair, Validity};

/// A step in the life of a key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotationAction {
    /// The next generation is made and published.
    CreatePending,
    /// The pending generation begins to sign, and the current one becomes a previous one.
    Activate,
    /// A generation that no longer signs, or never will, has expired: it is no longer published, and its private
    /// key is destroyed.
    Retire,
}

/// A step with the time from which on it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueStep {
    /// What is to be done.
    pub action: RotationAction,
    /// With which generation.
    pub generation: Generation,
    /// From when on.
    pub time: OffsetDateTime,
}

/// What the schedule of a key pair depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    buffers: Option<Buffers>,
    current: Span,
    pending: Option<Span>,
    previous: Vec<Span>,
    last_number: Generation,
}

/// How long before the expiry of a certificate its successor is made, and signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffers {
    creation: Duration,
    activation: Duration,
    valid_days: u16,
}

/// A generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    number: Generation,
    validity: Validity,
}

impl Span {
    /// Returns the first moment at which the certificate is expired: a certificate is valid to the end of its last
    /// second.
    fn end(&self) -> OffsetDateTime {
        self.validity.not_after + Duration::SECOND
    }
}

impl Lifecycle {
    /// Reads it off a key pair.
    pub fn of(key_pair: &KeyPair) -> Self {
        let in_state = |wanted| {
            let spans = key_pair.generations();
            spans
                .filter(move |(state, _)| *state == wanted)
                .map(|(_, generation)| Span {
                    number: generation.number,
                    validity: generation.validity,
                })
        };
        Self {
            buffers: key_pair.rotation.map(|rotation| Buffers {
                creation: Duration::days(rotation.creation_buffer_days.into()),
                activation: Duration::days(rotation.activation_buffer_days.into()),
                valid_days: rotation.next.valid_days,
            }),
            current: Span {
                number: key_pair.current.number,
                validity: key_pair.current.validity,
            },
            pending: in_state(GenerationState::Pending).next(),
            previous: in_state(GenerationState::Previous).collect(),
            last_number: key_pair.last_number,
        }
    }

    /// Returns the next step. None when nothing is ever to be done.
    pub fn next(&self) -> Option<DueStep> {
        let rotation = match (self.buffers, self.pending) {
            (Some(buffers), Some(pending)) if pending.end() > self.activation(buffers, pending) => {
                Some(DueStep {
                    action: RotationAction::Activate,
                    generation: pending.number,
                    time: self.activation(buffers, pending),
                })
            }
            (_, Some(pending)) => Some(retirement(&pending)),
            (Some(buffers), None) => Some(DueStep {
                action: RotationAction::CreatePending,
                generation: self.last_number.next(),
                time: self.current.validity.not_after - buffers.creation,
            }),
            (None, None) => None,
        };
        let retired = self.previous.iter().map(retirement);
        rotation
            .into_iter()
            .chain(retired)
            .min_by_key(|step| step.time)
    }

    /// Returns when the pending generation begins to sign, if it ever does by itself.
    pub fn activation_time(&self) -> Option<OffsetDateTime> {
        let (buffers, pending) = (self.buffers?, self.pending?);
        Some(self.activation(buffers, pending))
    }

    /// Returns the steps to come, each at the time it would be done if the clock shows `now` and nothing is in the
    /// way.
    pub fn plan(mut self, now: OffsetDateTime, steps: usize) -> Vec<DueStep> {
        let mut at = now;
        let mut plan = Vec::with_capacity(steps);
        while plan.len() < steps
            && let Some(mut step) = self.next()
        {
            at = at.max(step.time);
            step.time = at;
            self.take(step.action, step.generation, at);
            plan.push(step);
        }
        plan
    }

    /// Does a step on paper.
    fn take(&mut self, action: RotationAction, generation: Generation, at: OffsetDateTime) {
        match action {
            RotationAction::CreatePending => {
                let valid_days = self.buffers.map_or(1, |buffers| buffers.valid_days);
                self.pending = Some(Span {
                    number: generation,
                    validity: Validity::days_from(at, valid_days),
                });
                self.last_number = generation;
            }
            RotationAction::Activate => {
                if let Some(pending) = self.pending.take() {
                    let former = std::mem::replace(&mut self.current, pending);
                    self.previous.insert(0, former);
                }
            }
            RotationAction::Retire => {
                self.previous.retain(|span| span.number != generation);
                self.pending = self.pending.filter(|span| span.number != generation);
            }
        }
    }

    /// A generation signs the activation buffer before its predecessor expires, and not before it was published for
    /// as long as the buffers differ. But when it was made too late for that, it signs as soon as its predecessor
    /// cannot.
    fn activation(&self, buffers: Buffers, pending: Span) -> OffsetDateTime {
        let expiry = self.current.validity.not_after;
        let published_long_enough =
            pending.validity.not_before + (buffers.creation - buffers.activation);
        (expiry - buffers.activation)
            .max(published_long_enough)
            .min(expiry)
    }
}

fn retirement(span: &Span) -> DueStep {
    DueStep {
        action: RotationAction::Retire,
        generation: span.number,
        time: span.end(),
    }
}
