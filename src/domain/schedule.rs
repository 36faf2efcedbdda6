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
    /// as long as the buffers differ. But when it was made too late for that, it signs at the last moment before its
    /// predecessor cannot. It never signs before it is valid, which may be later than now when the clock has gone back.
    fn activation(&self, buffers: Buffers, pending: Span) -> OffsetDateTime {
        let expiry = self.current.validity.not_after;
        let published_long_enough =
            pending.validity.not_before + (buffers.creation - buffers.activation);
        (expiry - buffers.activation)
            .max(published_long_enough)
            .min(expiry - LAST_MOMENT)
            .max(pending.validity.not_before)
    }
}

/// How long before the expiry of a certificate its successor signs at the latest: longer than it takes to see that
/// this is due.
const LAST_MOMENT: Duration = Duration::hours(1);

fn retirement(span: &Span) -> DueStep {
    DueStep {
        action: RotationAction::Retire,
        generation: span.number,
        time: span.end(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-11-24 00:00:00 UTC);

    fn generation(number: u32) -> Generation {
        Generation::new(number).unwrap()
    }

    fn lifecycle(creation: i64, activation: i64, valid_days: u16) -> Lifecycle {
        Lifecycle {
            buffers: Some(Buffers {
                creation: Duration::days(creation),
                activation: Duration::days(activation),
                valid_days,
            }),
            current: Span {
                number: Generation::FIRST,
                validity: Validity::days_from(START, valid_days),
            },
            pending: None,
            previous: Vec::new(),
            last_number: Generation::FIRST,
        }
    }

    /// Writes a plan as days since the start.
    fn plan(lifecycle: Lifecycle, day: i64, steps: usize) -> Vec<String> {
        let plan = lifecycle.plan(START + Duration::days(day), steps);
        let shown = plan.into_iter().map(|step| {
            let day = (step.time - START).whole_days();
            format!("{day} {:?} {}", step.action, step.generation)
        });
        shown.collect()
    }

    #[test]
    fn the_next_is_made_signs_and_the_former_is_retired_over_and_over() {
        assert_eq!(
            plan(lifecycle(30, 10, 100), 0, 8),
            [
                "70 CreatePending 2",
                "90 Activate 2",
                "100 Retire 1",
                "140 CreatePending 3",
                "160 Activate 3",
                "170 Retire 2",
                "210 CreatePending 4",
                "230 Activate 4",
            ]
        );
        // Equal buffers: published and used at once.
        assert_eq!(
            plan(lifecycle(10, 10, 100), 0, 3),
            ["90 CreatePending 2", "90 Activate 2", "100 Retire 1"]
        );
    }

    #[test]
    fn what_is_late_is_published_as_long_as_the_former_lasts() {
        // Ten days left: it cannot be published for twenty.
        assert_eq!(
            plan(lifecycle(30, 10, 100), 90, 2),
            ["90 CreatePending 2", "99 Activate 2"]
        );
        assert_eq!(
            plan(lifecycle(30, 10, 100), 75, 2),
            ["75 CreatePending 2", "95 Activate 2"]
        );
        // Expired: nothing is waited for.
        assert_eq!(
            plan(lifecycle(30, 10, 100), 400, 3),
            ["400 CreatePending 2", "400 Activate 2", "400 Retire 1"]
        );
    }

    #[test]
    fn without_settings_a_pending_generation_stays_until_it_expires() {
        let mut without = lifecycle(30, 10, 100);
        assert_eq!(plan(without.clone(), 70, 1), ["70 CreatePending 2"]);
        without.take(
            RotationAction::CreatePending,
            generation(2),
            START + Duration::days(70),
        );
        without.buffers = None;
        assert_eq!(without.activation_time(), None);
        assert_eq!(plan(without.clone(), 70, 9), ["170 Retire 2"]);
        // Its number is not given again.
        without.take(RotationAction::Retire, generation(2), START);
        without.buffers = lifecycle(30, 10, 100).buffers;
        assert_eq!(plan(without, 180, 1), ["180 CreatePending 3"]);
        // And with nothing pending there is nothing to do.
        let idle = Lifecycle {
            buffers: None,
            ..lifecycle(30, 10, 100)
        };
        assert_eq!(idle.next(), None);
    }

    /// How many minutes late each step is seen to be due: few, or many, when the daemon was down.
    fn delays() -> impl Strategy<Value = Vec<u32>> {
        prop_oneof![
            prop::collection::vec(0..=SOON, 1..60),
            prop::collection::vec(prop_oneof![4 => 0..=SOON, 1 => SOON..900_000], 1..60),
        ]
    }

    const SOON: u32 = 55;

    fn life() -> impl Strategy<Value = (i64, i64, u16, Vec<u32>)> {
        (2_u16..400)
            .prop_flat_map(|valid_days| (1..i64::from(valid_days), Just(valid_days)))
            .prop_flat_map(|(creation, valid_days)| {
                (Just(creation), 1..=creation, Just(valid_days), delays())
            })
    }

    proptest! {
        #[test]
        fn one_generation_signs_and_none_is_activated_unseen_or_outlives_its_plan(
            (creation, activation, valid_days, delays) in life()
        ) {
            let mut pair = lifecycle(creation, activation, valid_days);
            let mut now = START;
            let overlap = Duration::days(creation - activation);
            let always_worked = delays.iter().all(|delay| *delay <= SOON);
            for delay in delays {
                let due = pair.next().map(|step| step.time);
                now = now.max(due.unwrap()) + Duration::minutes(delay.into());
                prop_assert!(!always_worked || pair.current.end() > now, "it expired while rotation works");
                while let Some(step) = pair.next() && step.time <= now {
                    match step.action {
                        RotationAction::CreatePending => prop_assert!(pair.pending.is_none()),
                        RotationAction::Activate => {
                            let pending = pair.pending.unwrap();
                            let published = now - pending.validity.not_before;
                            let last_moment = pair.current.validity.not_after - LAST_MOMENT;
                            prop_assert!(published >= overlap || now >= last_moment);
                        }
                        RotationAction::Retire => {
                            prop_assert!(step.generation != pair.current.number);
                        }
                    }
                    let last = pair.last_number;
                    pair.take(step.action, step.generation, now);
                    prop_assert!(pair.last_number >= last);
                }
                prop_assert!(pair.current.end() > now, "it is expired after all was done");
                for former in &pair.previous {
                    prop_assert!(former.end() > now, "a private key outlives its plan");
                }
                if let Some(pending) = pair.pending {
                    prop_assert!(pending.end() > now && pending.number > pair.current.number);
                }
            }
        }

        #[test]
        fn whatever_the_clock_does_nothing_is_undone_and_none_signs_before_it_is_valid(
            (creation, activation, valid_days, _) in life(),
            jumps in prop::collection::vec(-600_000_i64..600_000, 1..60),
        ) {
            let mut pair = lifecycle(creation, activation, valid_days);
            let mut now = START;
            for jump in jumps {
                now += Duration::minutes(jump);
                while let Some(step) = pair.next() && step.time <= now {
                    let was = pair.clone();
                    pair.take(step.action, step.generation, now);
                    prop_assert!(pair.current.number >= was.current.number);
                    prop_assert!(pair.last_number >= was.last_number);
                    prop_assert!(
                        step.action != RotationAction::Activate || pair.current.validity.not_before <= now
                    );
                }
            }
        }

        #[test]
        fn with_room_for_both_the_next_is_published_in_full_and_signs_in_time(
            (activation, overlap, more, delays) in
                (1_i64..60, 0_i64..60, 1_i64..60, prop::collection::vec(0..=SOON, 1..40))
        ) {
            let creation = activation + overlap;
            let valid_days = u16::try_from(creation + overlap + more).unwrap();
            let mut pair = lifecycle(creation, activation, valid_days);
            let mut now = START;
            for delay in delays {
                let due = pair.next().map(|step| step.time);
                now = now.max(due.unwrap()) + Duration::minutes(delay.into());
                while let Some(step) = pair.next() && step.time <= now {
                    if step.action == RotationAction::Activate {
                        let published = now - pair.pending.unwrap().validity.not_before;
                        prop_assert!(published >= Duration::days(overlap));
                        let planned = pair.current.validity.not_after - Duration::days(activation);
                        prop_assert!(now - planned <= Duration::hours(2), "{} late", now - planned);
                    }
                    pair.take(step.action, step.generation, now);
                }
            }
        }
    }
}
