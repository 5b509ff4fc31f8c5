//! The octets under a sink's conversation.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

/// The longest command line; RFC 4954, section 4 wants room for 12,288 octets of base64.
const MAX_LINE: u64 = 16 * 1024;
/// The largest message that is read.
const MAX_MESSAGE: usize = 128 * 1024 * 1024;
/// How much of a message a slow reader takes at a time.
const PIECE: usize = 4096;

/// Anything to talk over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// The connection below.
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<Box<dyn Wire>> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }
}

/// A wire with buffers on both sides: a group of commands that came in one packet is answered in one.
pub(super) type Buffered = BufReader<BufWriter<Box<dyn Wire>>>;

pub(super) fn buffered(wire: Box<dyn Wire>) -> Buffered {
    BufReader::new(BufWriter::new(wire))
}

/// The error that ends a conversation.
pub(super) fn over() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Reads one line without its end.
pub(super) async fn read_line(wire: &mut Buffered) -> io::Result<String> {
    let mut line = Vec::new();
    if wire.take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
        return Err(over());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Reads up to the final dot and takes the stuffed dots away (RFC 5321, section 4.5.2). Waits before each piece.
pub(super) async fn read_message(wire: &mut Buffered, wait: Duration) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let mut piece_from = 0;
    loop {
        let start = message.len();
        if !wait.is_zero() && start >= piece_from {
            piece_from = start + PIECE;
            sleep(wait).await;
        }
        if wire.read_until(b'\n', &mut message).await? == 0 || message.len() > MAX_MESSAGE {
            return Err(over());
        }
        // Only CRLF ends a line: a dot between bare line feeds is part of the message.
        let is_line_start = start == 0 || message[..start].ends_with(b"\r\n");
        if is_line_start && message[start..] == *b".\r\n" {
            message.truncate(start);
            return Ok(message);
        }
        if is_line_start && message[start] == b'.' {
            message.remove(start);
        }
    }
}
