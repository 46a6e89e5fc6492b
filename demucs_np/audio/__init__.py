"""Audio files: read anything, convert channels and sample rate, write WAV, FLAC and MP3. Knows nothing of models and separation."""

from ..errors import reason_of as reason_of
from .convert import MAX_RATE as MAX_RATE
from .convert import check_finite as check_finite
from .convert import check_layout as check_layout
from .convert import check_rate as check_rate
from .convert import convert_channels as convert_channels
from .convert import turned as turned
from .levels import ClipMode as ClipMode
from .levels import prevent_clip as prevent_clip
from .source import BLOCK as BLOCK
from .source import ArraySource as ArraySource
from .source import Slice as Slice
from .source import Source as Source
from .source import Spool as Spool
from .tags import of_stem as of_stem
from .track import Note as Note
from .track import Track as Track
from .track import check_track as check_track
from .track import open_track as open_track
from .track import read_blocks as read_blocks
from .track import warn as warn
from .write import Encoding as Encoding
from .write import pieces as pieces
from .write import to_pcm as to_pcm
from .write import write as write
from .write import write_frames as write_frames
