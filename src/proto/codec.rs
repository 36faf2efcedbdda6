//! How messages are read and written: as prost does, in buffers of the size that ours have.

use std::marker::PhantomData;

use prost::bytes::Buf;
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::bounds::Bounds;

/// `application/grpc+proto`, with buffers that begin small.
///
/// tonic's own begin with 8 KiB for each message, which the allocator takes from where it is slow: a tenth of the network's
/// share of a signature. They grow for what is larger.
#[derive(Debug)]
pub struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBufferCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Name + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder {
            bounds: Bounds::of(U::NAME),
            inner: ProstCodec::<T, U>::raw_decoder(buffers()),
        }
    }
}

/// Decodes messages whose lists are not longer than they may be.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    bounds: Bounds,
    inner: ProstDecoder<U>,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The whole message is in one piece.
        if let Err(many) = self.bounds.check(buffer.chunk()) {
            let refused = format!(
                "{} {} were given; {} are allowed",
                many.found, many.elements, many.allowed
            );
            let mut status = Status::invalid_argument(refused);
            if let Ok(field) = many.field.parse() {
                status.metadata_mut().insert(TOO_MANY, field);
            }
            return Err(status);
        }
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

/// Where a status names the list that is too long. It never leaves the daemon: `grpc::status` makes
/// a violation of it.
pub const TOO_MANY: &str = "keypaird-too-many";

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_LEN, YIELD_THRESHOLD)
}

/// More than a request to sign a digest and its answer have.
const BUFFER_LEN: usize = 512;
/// tonic's own: how much of a stream is gathered before it is sent.
const YIELD_THRESHOLD: usize = 32 * 1024;
