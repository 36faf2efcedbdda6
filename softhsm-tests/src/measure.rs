//! Figures: medians of durations, and what the system tells of a process.

use std::fs;
use std::time::{Duration, Instant};

/// Durations of one thing done many times.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a duration.
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Does something, adds how long it took, and returns its result.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.add(begun.elapsed());
        done
    }

    /// Adds the samples of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value below which a share of the samples lies.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a rank among samples"
        )]
        let rank = (last as f64 * share).round() as usize;
        sorted[rank]
    }

    /// Returns the median.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }
}

/// Shows a duration in milliseconds.
pub fn ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Returns the resident memory of a process in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    memory_mib(pid, "VmRSS:")
}

/// Returns the most resident memory that a process ever had, in MiB.
pub fn peak_mib(pid: u32) -> f64 {
    memory_mib(pid, "VmHWM:")
}

fn memory_mib(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Returns the processor time that the living threads of a process and of those it started have used.
pub fn cpu_time(pid: u32) -> Duration {
    let started: Duration = children(pid).into_iter().map(cpu_time).sum();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.map(|task| {
        // A thread may end meanwhile.
        fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default()
    });
    threads.map(|stat| running_time(&stat)).sum::<Duration>() + started
}

/// Returns the processor time that the calling thread has used.
pub fn cpu_time_of_this_thread() -> Duration {
    running_time(&fs::read_to_string("/proc/thread-self/schedstat").unwrap())
}

/// Reads `schedstat` (proc(5)): the first number is the time on a processor in nanoseconds.
fn running_time(stat: &str) -> Duration {
    let nanos = stat.split_whitespace().next().unwrap_or_default();
    Duration::from_nanos(nanos.parse().unwrap_or_default())
}

/// Returns the processes that a process has started and that live.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks.map(|task| {
        // A thread may end meanwhile.
        fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
    });
    let children: Vec<_> = children.collect();
    let pids = children.iter().flat_map(|pids| pids.split_whitespace());
    pids.map(|pid| pid.parse().unwrap()).collect()
}

/// Returns the median of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
