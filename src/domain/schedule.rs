//! What is to be done next with a key pair that rotates, and when.
//!
//! A pure function of what is recorded: [`Lifecycle::next`]. Nothing here looks at a clock, so that a step that is late
//! is only that, and a clock that goes back undoes nothing.
//!
//! A certificate may have any dates. No arithmetic with them overflows: what lies past the end of
//! time is never due.

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
        // At the same time a generation retires before another takes its place.
        let retired = self.previous.iter().filter_map(retirement);
        retired.chain(self.rotation()).min_by_key(|step| step.time)
    }

    /// Returns when there is room for another published generation, which is when enough of the
    /// former ones have retired. None when there is room. One whose certificate has no end stands in
    /// the way until the end of time.
    pub fn room(&self) -> Option<OffsetDateTime> {
        let published = 1 + self.previous.len() + usize::from(self.pending.is_some());
        let in_the_way = published.checked_sub(GENERATIONS_MAX)?;
        let end = |span: &Span| span.validity.end().unwrap_or(span.validity.not_after);
        let mut ends: Vec<_> = self.previous.iter().map(end).collect();
        ends.sort_unstable();
        ends.get(in_the_way).copied()
    }

    /// Returns the next step that destroys no private key.
    pub fn next_without_retirement(&self) -> Option<DueStep> {
        self.rotation()
            .filter(|step| step.action != RotationAction::Retire)
    }

    /// Returns the next step with the current generation and the pending one.
    fn rotation(&self) -> Option<DueStep> {
        let Some(pending) = self.pending else {
            // A certificate without an end needs no successor.
            self.current.validity.end()?;
            return Some(DueStep {
                action: RotationAction::CreatePending,
                generation: self.last_number.next(),
                time: self.creation(self.buffers?),
            });
        };
        let end = pending.validity.end();
        match self.activation_time() {
            Some(time) if end.is_none_or(|end| end > time) => Some(DueStep {
                action: RotationAction::Activate,
                generation: pending.number,
                time,
            }),
            _ => retirement(&pending),
        }
    }

    /// Returns when the pending generation begins to sign, if it ever does by itself.
    pub fn activation_time(&self) -> Option<OffsetDateTime> {
        self.activation(self.buffers?, self.pending?)
    }

    /// Returns the steps to come, each at the time it would be done if the clock shows `now` and nothing is in the
    /// way. A plan ends with the first certificate that has no end.
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

    /// The next generation is made the creation buffer before the current one expires, and not
    /// before there is room for it. But a key pair that stops signing is worse than one generation
    /// too many, so it is made on the last day in any case.
    fn creation(&self, buffers: Buffers) -> OffsetDateTime {
        let expiry = self.current.validity.not_after;
        let planned = expiry.saturating_sub(buffers.creation);
        self.room().map_or(planned, |room| {
            planned.max(room.min(expiry.saturating_sub(Duration::DAY)))
        })
    }

    /// A generation signs the activation buffer before its predecessor expires, and not before it was published for
    /// as long as the buffers differ. But when it was made too late for that, it signs at the last moment before its
    /// predecessor cannot. It never signs before it is valid, which may be later than now when the clock has gone back.
    /// Where the predecessor has no end, it does not sign until it is told to.
    fn activation(&self, buffers: Buffers, pending: Span) -> Option<OffsetDateTime> {
        self.current.validity.end()?;
        let expiry = self.current.validity.not_after;
        let (published, overlap) = (
            pending.validity.not_before,
            buffers.creation - buffers.activation,
        );
        let time = expiry
            .saturating_sub(buffers.activation)
            .max(published.saturating_add(overlap))
            .min(expiry.saturating_sub(LAST_MOMENT))
            .max(published);
        Some(time)
    }
}

/// How long before the expiry of a certificate its successor signs at the latest: longer than it takes to see that
/// this is due.
const LAST_MOMENT: Duration = Duration::hours(1);

/// How many generations of a key pair are published at a time: the current one, the pending one,
/// the former ones.
pub const GENERATIONS_MAX: usize = 16;

/// A generation is retired when its certificate is expired, and never if that has no end.
fn retirement(span: &Span) -> Option<DueStep> {
    Some(DueStep {
        action: RotationAction::Retire,
        generation: span.number,
        time: span.validity.end()?,
    })
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
    fn a_rotation_that_is_due_each_day_waits_for_room_and_nothing_expires() {
        for (creation, activation) in [(364, 364), (364, 363), (364, 200), (364, 1)] {
            let mut pair = lifecycle(creation, activation, 365);
            let mut most = 0;
            for day in 0..365 * 8 {
                let now = START + Duration::days(day) + Duration::minutes(1);
                while let Some(step) = pair.next()
                    && step.time <= now
                {
                    pair.take(step.action, step.generation, now);
                    let pending = usize::from(pair.pending.is_some());
                    most = most.max(1 + pair.previous.len() + pending);
                }
                assert!(
                    pair.current.validity.end().is_none_or(|end| end > now),
                    "day {day} of {creation}, {activation}"
                );
            }
            assert!(
                most <= GENERATIONS_MAX,
                "{most} of {creation}, {activation}"
            );
        }
    }

    #[test]
    fn what_was_made_by_hand_for_long_does_not_have_a_key_pair_expire() {
        // Fifteen that are published for years, and one that is not.
        let mut pair = lifecycle(5, 5, 10);
        let long = |number| Span {
            number: generation(number),
            validity: Validity::days_from(START, 9999),
        };
        pair.previous = (1..16).map(long).collect();
        pair.current.number = generation(16);
        pair.last_number = generation(16);
        assert_eq!(
            plan(pair, 0, 4),
            [
                "9 CreatePending 17",
                "9 Activate 17",
                "10 Retire 16",
                "18 CreatePending 18"
            ]
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

    const EARLIEST: OffsetDateTime = datetime!(0000-01-01 00:00:00 UTC);
    const LATEST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

    #[test]
    fn a_certificate_without_an_end_has_no_successor_and_is_never_retired() {
        let endless = |number| Span {
            number: generation(number),
            validity: Validity {
                not_before: START,
                not_after: LATEST,
            },
        };
        let mut pair = lifecycle(30, 10, 100);
        pair.current = endless(1);
        assert_eq!(pair.next(), None);
        // The rotation does not activate one that an operator made: its predecessor lasts.
        pair.pending = Some(Span {
            number: generation(2),
            validity: Validity::days_from(START, 100),
        });
        assert_eq!(pair.activation_time(), None);
        assert_eq!(plan(pair.clone(), 0, 9), ["100 Retire 2"]);
        pair.pending = Some(endless(2));
        assert_eq!(pair.next(), None);
        // The former one of a key pair that rotates on.
        let mut former = lifecycle(30, 10, 100);
        former.previous = vec![endless(1)];
        former.last_number = generation(7);
        assert_eq!(
            plan(former, 0, 3),
            ["70 CreatePending 8", "90 Activate 8", "100 Retire 1"]
        );
    }

    #[test]
    fn a_plan_ends_where_time_does() {
        let plan = lifecycle(30, 10, 36_500).plan(START, 1_000);
        let created = |step: &&DueStep| step.action == RotationAction::CreatePending;
        // From 2026, every hundred years.
        assert_eq!(plan.iter().filter(created).count(), 79);
        assert!(plan.iter().all(|step| step.time <= LATEST), "{plan:?}");
        assert_eq!(plan.last().unwrap().action, RotationAction::Retire);
    }

    /// Any second that a certificate can name: the first and the last ones often.
    fn moment() -> impl Strategy<Value = OffsetDateTime> {
        let any = EARLIEST.unix_timestamp()..=LATEST.unix_timestamp();
        prop_oneof![
            Just(EARLIEST),
            Just(datetime!(1950-01-01 00:00:00 UTC)),
            Just(datetime!(9999-12-31 23:59:58 UTC)),
            Just(LATEST),
            any.prop_map(|seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap()),
        ]
    }

    fn span(number: u32, [not_before, not_after]: [OffsetDateTime; 2]) -> Span {
        Span {
            number: generation(number),
            validity: Validity {
                not_before,
                not_after,
            },
        }
    }

    proptest! {
        #[test]
        fn no_date_in_a_certificate_is_too_early_or_too_late_for_any_step(
            dates in prop::array::uniform8(moment()),
            now in moment(),
            buffers in prop::option::of((0_i64..=65_535, 0_i64..=65_535, 1_u16..=36_500)),
            is_pending in any::<bool>(),
        ) {
            let [a, b, c, d, e, f, g, h] = dates;
            let pair = Lifecycle {
                buffers: buffers.map(|(creation, activation, valid_days)| Buffers {
                    creation: Duration::days(creation),
                    activation: Duration::days(activation),
                    valid_days,
                }),
                current: span(3, [a, b]),
                pending: is_pending.then(|| span(4, [c, d])),
                previous: vec![span(2, [e, f]), span(1, [g, h])],
                last_number: generation(4),
            };
            let earliest = EARLIEST - Duration::days(65_535);
            let in_time = |time: OffsetDateTime| (earliest..=LATEST).contains(&time);
            prop_assert!(pair.next().is_none_or(|step| in_time(step.time)));
            prop_assert!(pair.activation_time().is_none_or(in_time));
            let plan = pair.plan(now, 200);
            prop_assert!(plan.iter().all(|step| in_time(step.time) && step.time >= now));
            prop_assert!(plan.is_sorted_by_key(|step| step.time));
            for date in dates {
                let validity = Validity { not_before: a, not_after: date };
                let _ = validity.at(now);
                prop_assert!(validity.end().is_none_or(|end| end > date && in_time(end)));
                prop_assert!(in_time(Validity::days_from(date, 36_500).not_after));
            }
        }
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
                prop_assert!(!always_worked || pair.current.validity.end().unwrap() > now, "it expired while rotation works");
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
                prop_assert!(pair.current.validity.end().unwrap() > now, "it is expired after all was done");
                for former in &pair.previous {
                    prop_assert!(former.validity.end().unwrap() > now, "a private key outlives its plan");
                }
                if let Some(pending) = pair.pending {
                    prop_assert!(pending.validity.end().unwrap() > now && pending.number > pair.current.number);
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
            let valid_days = creation + overlap + more;
            // With more generations than may be published at once, the next one waits.
            let at_once = valid_days / (valid_days - activation) + 2;
            prop_assume!(usize::try_from(at_once).unwrap() < GENERATIONS_MAX);
            let valid_days = u16::try_from(valid_days).unwrap();
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
