//! How messages are read and written: as prost does, in buffers of the size that ours have.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

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
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_LEN, YIELD_THRESHOLD)
}

/// More than a request to sign a digest and its answer have.
const BUFFER_LEN: usize = 512;
/// tonic's own: how much of a stream is gathered before it is sent.
const YIELD_THRESHOLD: usize = 32 * 1024;
