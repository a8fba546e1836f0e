import shutil, numpy as np, os
from PIL import Image
b='/tmp/cold/'
for n in ('oor','miss','rgb','size','pal','empty'):
    shutil.rmtree(b+n,ignore_errors=True); shutil.copytree(b+'mine',b+n)
m=np.array(Image.open(b+'oor/train/masks/3.png')); m[5:9,5:9]=7; Image.fromarray(m).save(b+'oor/train/masks/3.png')
os.remove(b+'miss/train/masks/3.png')
m=np.array(Image.open(b+'rgb/train/masks/3.png')); Image.fromarray(np.stack([m]*3,-1)).save(b+'rgb/train/masks/3.png')
m=np.array(Image.open(b+'size/train/masks/3.png')); Image.fromarray(m[:40]).save(b+'size/train/masks/3.png')
shutil.rmtree(b+'empty/val')
