import sys,time
from collections import Counter
from hypothesis import given, settings, HealthCheck, seed
from tests.numerics.graphs import models, EXCUSED
from tests.numerics.graphs import strategy
from tests.numerics.graphs.registry import ROWS
from tests.numerics.graphs.graph import Declined
n=int(sys.argv[1]); c=Counter(); tried=Counter(); dec={}
orig=strategy._add
def add(g,key):
    tried[key]+=1
    try:
        import tests.numerics.graphs.strategy
        before=len(g.nodes)
        row=ROWS[key]
        def wrapped(g):
            try: row(g)
            except Declined as e: dec.setdefault(key,[]).append(str(e)); raise
        ROWS[key]=wrapped
        try: orig(g,key)
        finally: ROWS[key]=row
    except Exception: raise
strategy._add=add
@settings(max_examples=n,deadline=None,suppress_health_check=list(HealthCheck),derandomize=True,database=None)
@given(models())
def count(d): c.update(d.operators)
t=time.time(); count(); print(time.time()-t)
for k in sorted(set(ROWS),key=lambda k:c[k]): print(k[1],c[k],tried[k],len(dec.get(k,[])),(dec.get(k) or [''])[0][:200])
