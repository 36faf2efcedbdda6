//! Which threads interrupt others when they are woken (sched(7)).
//!
//! Every signature that a token has made wakes a thread of Tokio. It would interrupt one that signs, to write one reply; when its turn comes
//! it writes several. Threads that sign do interrupt one that generates a key.

use std::process;

use tracing::debug;
use uapi::c::pid_t;
use uapi::{Errno, sched_getattr, sched_setattr};

/// Has the calling thread, one of Tokio's, wait for its turn when it is woken (`SCHED_BATCH`), unless the process was started with a
/// policy of its own.
pub fn wait_for_turn_when_woken() {
    tell(adopt(|usual| match usual {
        SCHED_OTHER => SCHED_BATCH,
        of_operator => of_operator,
    }));
}

/// Has the calling thread, and the threads and processes that it starts, do as the first thread of the process does: a thread of Tokio
/// hands on its way to those that it starts.
pub(super) fn interrupt_as_usual() {
    tell(adopt(|usual| usual));
}

/// Gives the calling thread a policy, chosen by that of the first thread of the process.
fn adopt(choose: impl Fn(u32) -> u32) -> Result<(), Errno> {
    let first = process::id().cast_signed();
    let wanted = choose(sched_getattr(first, 0)?.sched_policy);
    let mut own = sched_getattr(THIS_THREAD, 0)?;
    if own.sched_policy == wanted {
        return Ok(());
    }
    own.sched_policy = wanted;
    // The usual slice.
    own.sched_runtime = 0;
    sched_setattr(THIS_THREAD, &own, 0)
}

fn tell(adopted: Result<(), Errno>) {
    if let Err(error) = adopted {
        debug!(%error, "threads are scheduled as the system does it: it does not permit another policy");
    }
}

const THIS_THREAD: pid_t = 0;
const SCHED_OTHER: u32 = uapi::c::SCHED_OTHER.cast_unsigned();
const SCHED_BATCH: u32 = uapi::c::SCHED_BATCH.cast_unsigned();
