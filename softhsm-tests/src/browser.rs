//! A real browser, Chromium without a window, and a web server that means harm.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::tools::INSTALL;

/// Chromium with one page open, for which every name leads to this machine. It ends when this is
/// dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--host-resolver-rules=MAP * 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // Without it, it ends as soon as the page is there.
            .arg("--remote-debugging-port=0")
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("chromium cannot be run ({error}); {INSTALL}"));
        Self {
            child,
            _profile: profile,
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        // It may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The web server of an attacker, to which a name leads until it is rebound: it serves one page,
/// and hands on everything else to the daemon, byte for byte. To the browser both are the same
/// origin.
#[derive(Debug)]
pub struct Attacker {
    port: u16,
    served: Arc<OnceLock<(Vec<u8>, SocketAddr)>>,
    said: Receiver<String>,
}

impl Attacker {
    /// Takes a port.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::new(OnceLock::new());
        let (sender, said) = channel();
        let attacker = Self {
            port,
            served: Arc::clone(&served),
            said,
        };
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, served, sender) =
                    (connection.unwrap(), Arc::clone(&served), sender.clone());
                std::thread::spawn(move || answer(connection, &served, &sender));
            }
        });
        attacker
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves a page at `/page`, and hands on the rest to a daemon.
    pub fn serve(&self, page: Vec<u8>, daemon: SocketAddr) {
        self.served.set((page, daemon)).unwrap();
    }

    /// Waits for what a page posts to `/said`, in lines.
    pub fn said(&self) -> Vec<String> {
        let said = self.said.recv_timeout(PATIENCE);
        let said = said.expect("the page says something");
        said.lines().map(ToOwned::to_owned).collect()
    }
}

impl Default for Attacker {
    fn default() -> Self {
        Self::new()
    }
}

/// Answers one connection. A browser that goes away is no fault.
fn answer(
    mut browser: TcpStream,
    served: &OnceLock<(Vec<u8>, SocketAddr)>,
    said: &Sender<String>,
) -> Option<()> {
    let mut received = Vec::new();
    let head = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        read_more(&mut browser, &mut received)?;
    };
    let (page, daemon) = served.wait();
    let text = String::from_utf8_lossy(&received[..head]).into_owned();
    match text.split(' ').nth(1).unwrap_or_default() {
        "/page" => respond(&mut browser, "200 OK", page),
        "/favicon.ico" => respond(&mut browser, "404 Not Found", b""),
        "/said" => {
            let length = text.to_ascii_lowercase();
            let (_, length) = length.split_once("content-length: ")?;
            let length: usize = length.split("\r\n").next()?.parse().ok()?;
            while received.len() < head + length {
                read_more(&mut browser, &mut received)?;
            }
            let body = String::from_utf8_lossy(&received[head..]).into_owned();
            said.send(body).ok()?;
            respond(&mut browser, "204 No Content", b"")
        }
        _ => {
            let mut daemon = TcpStream::connect(daemon).ok()?;
            daemon.write_all(&received).ok()?;
            let (mut from, mut to) = (browser.try_clone().ok()?, daemon.try_clone().ok()?);
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::io::copy(&mut daemon, &mut browser).ok()?;
            Some(())
        }
    }
}

fn read_more(browser: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
    let mut read = [0; 16 * 1024];
    let count = browser.read(&mut read).ok()?;
    received.extend(&read[..count]);
    (count > 0).then_some(())
}

fn respond(browser: &mut TcpStream, status: &str, body: &[u8]) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    browser.write_all(head.as_bytes()).ok()?;
    browser.write_all(body).ok()
}

/// How long a browser may take to start, and a page to be done.
const PATIENCE: Duration = Duration::from_secs(60);
