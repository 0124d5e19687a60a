from slslib.data import audio
from slslib.data.corpora import open_corpus as open_corpus
from slslib.data.rawboost import rawboost as rawboost
from slslib.evaluation.evaluate import evaluate as evaluate
from slslib.evaluation.metrics import eer as eer
from slslib.model.detector import Detector as Detector
from slslib.model.detector import load_backbone as load_backbone
from slslib.model.sls import SLSHead as SLSHead
from slslib.model.xlsr import XLSR as XLSR
from slslib.runs.detect import detect as detect
from slslib.runs.score import score as score
from slslib.runs.train import train as train

__version__: str

load_audio = audio.load
