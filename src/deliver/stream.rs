//! The stream under an SMTP connection: TCP with or without TLS, and what the client library needs around it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The most octets of one reply; RFC 5321 allows 512 a line and sets no limit to the lines.
pub const MAX_REPLY: usize = 16 * 1024;

/// The end of a message on the wire (RFC 5321, section 4.1.1.4). No command ends like this.
const FINAL_DOT: &[u8] = b"\r\n.\r\n";

/// A connection in the clear or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection whose greeting and EHLO are over, made to look new to the client library.
///
/// The library wants to read a greeting, write EHLO and parse the reply by itself; its parser is ours to avoid
/// (it panics on a blank keyword line and reads keywords with their case). So it reads a greeting and a reply
/// written by us, and its EHLO goes nowhere. Later replies are put into the form that it can read (`Replies`).
/// It also notes when the final dot of a message goes out.
pub struct Primed {
    stream: Stream,
    peer: SocketAddr,
    replies: Replies,
    swallowed_hello: bool,
    dot_sent: Arc<AtomicBool>,
}

impl fmt::Debug for Primed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Primed({})", self.peer)
    }
}

impl Primed {
    /// `mechanisms` are those of AUTH that the server offered, upper case. The flag tells whether a final dot
    /// has gone out; who sends a message resets it first.
    pub fn new(stream: Stream, peer: SocketAddr, mechanisms: &[String], dot_sent: Arc<AtomicBool>) -> Self {
        let offer =
            if mechanisms.is_empty() { "READY".to_owned() } else { format!("AUTH {}", mechanisms.join(" ")) };
        let mut replies = Replies::default();
        replies.ready.extend(format!("220 ready\r\n250-relay\r\n250 {offer}\r\n").bytes());
        Self { stream, peer, replies, swallowed_hello: false, dot_sent }
    }
}

impl AsyncTokioStream for Primed {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Primed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.replies.ready.is_empty() {
            let mut octets = [0; 1024];
            let mut received = ReadBuf::new(&mut octets);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut received))?;
            if received.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.replies.take(received.filled())?;
        }
        let count = buf.remaining().min(this.replies.ready.len());
        buf.put_slice(&this.replies.ready[..count]);
        this.replies.ready.drain(..count);
        Poll::Ready(Ok(()))
    }
}

/// Replies in the form that the client library can read: it takes a reply for broken, and with it the fate of a
/// message for unknown, when a line has no text behind its code (RFC 5321, section 4.2 allows that), ends in a
/// bare LF, or holds octets outside ASCII. Replies without an end are cut off.
#[derive(Default)]
struct Replies {
    ready: Vec<u8>,
    column: usize,
    octets: usize,
}

impl Replies {
    fn take(&mut self, received: &[u8]) -> io::Result<()> {
        self.octets += received.len();
        if self.octets > MAX_REPLY {
            return Err(io::Error::other(format!("the reply is longer than {MAX_REPLY} octets")));
        }
        for octet in received {
            match octet {
                b'\r' => continue,
                b'\n' => {
                    if self.column == 3 {
                        self.ready.push(b' ');
                    }
                    self.ready.extend(b"\r\n");
                    self.column = 0;
                    continue;
                }
                0x20..0x7f => self.ready.push(*octet),
                _ => self.ready.push(b'?'),
            }
            self.column += 1;
        }
        Ok(())
    }
}

impl AsyncWrite for Primed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.swallowed_hello {
            this.swallowed_hello = buf.ends_with(b"\r\n");
            return Poll::Ready(Ok(buf.len()));
        }
        this.replies.octets = 0;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        if written == buf.len() && (buf.ends_with(FINAL_DOT) || FINAL_DOT.ends_with(buf)) {
            this.dot_sent.store(true, Ordering::Release);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_put_into_the_form_that_the_library_reads() {
        let table: &[(&[u8], &str)] = &[
            (b"250 ok\r\n", "250 ok\r\n"),
            (b"250\r\n", "250 \r\n"),
            (b"250 ok\n", "250 ok\r\n"),
            (b"250-a\r\n250 angenommen f\xfcr\r\n", "250-a\r\n250 angenommen f?r\r\n"),
            (b"250 a\rb\r\n", "250 ab\r\n"),
        ];
        for (received, read) in table {
            for at in 0..received.len() {
                let mut replies = Replies::default();
                replies.take(&received[..at]).unwrap();
                replies.take(&received[at..]).unwrap();
                assert_eq!(String::from_utf8_lossy(&replies.ready), *read, "cut at {at}");
            }
        }
        assert!(Replies::default().take(&vec![b'x'; MAX_REPLY + 1]).is_err());
    }
}
